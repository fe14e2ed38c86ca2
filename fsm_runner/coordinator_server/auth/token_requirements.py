"""What the embedded coordinator asks of its callers, where it asks for tokens at all."""

import msgspec


class TokenDemand(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one token service, for one audience."""

    domain: str
    """`HOST[:PORT]` of the token service."""
    audience: str

    @property
    def issuer(self) -> str:
        return f"https://{self.domain}/"

    @property
    def keys_url(self) -> str:
        return f"https://{self.domain}/.well-known/jwks.json"
