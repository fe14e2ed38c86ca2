"""Verifies access tokens: the issuing token service, the audience and the validity period."""

import base64
import binascii
import re
from collections.abc import Mapping

import jwt
import msgspec

from fsm_runner.coordinator_server.auth.signing_keys import KeysUnavailable, SigningKeys
from fsm_runner.coordinator_server.errors import NotAuthenticated, Unavailable
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.util.text import excerpt

ALGORITHM = "RS256"
"""The only accepted algorithm, whatever a token's header names."""
LEEWAY_S = 10.0
"""The permitted difference between the clocks of this machine and the token service."""
SUBJECT_CLAIMS = ("sub", "azp", "client_id")
SUBJECT_CHARS = 200
UNNAMED = "a token without a subject"
TOKEN_LIMIT_BYTES = 16 * 1024
SCHEME = b"bearer"
_FORM = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""The form of RFC 7515, section 3.1. It permits no padding, which lenient base64 decoders accept."""

REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet: the clocks of two machines differ"),
    (jwt.InvalidAudienceError, "the token is for another audience than this coordinator's AUTH0_AUDIENCE"),
    (jwt.InvalidIssuerError, "the token was issued by another service than this coordinator's AUTH0_DOMAIN"),
    (jwt.MissingRequiredClaimError, "the token lacks exp, iss or aud"),
)
"""Reasons for a 401. None quotes the token."""


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str


class TokenRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """The token service and the audience of acceptable tokens."""

    domain: str
    """`HOST[:PORT]` of the token service."""
    audience: str

    @property
    def issuer(self) -> str:
        return f"https://{self.domain}/"

    @property
    def keys_url(self) -> str:
        return f"https://{self.domain}/.well-known/jwks.json"


class TokenVerifier:
    """Verifies the tokens of one token service. `aclose` ends a fetch of its keys."""

    def __init__(self, requirements: TokenRequirements, keys: SigningKeys | None = None) -> None:
        """Raises `UsageError` if a proxy or certificate variable is invalid."""
        self._requirements = requirements
        self._keys = SigningKeys(requirements.keys_url) if keys is None else keys

    async def aclose(self) -> None:
        await self._keys.aclose()

    async def check(self, authorizations: list[bytes]) -> str:
        """Verify the values of all `Authorization` headers of a request, and return the subject of the token.

        Raises `NotAuthenticated`, or `Unavailable` if the keys cannot be fetched.
        """
        token = _bearer_token(authorizations)
        header = _header_of(token)
        if header.alg != ALGORITHM:
            raise NotAuthenticated(f"the token is not signed with {ALGORITHM}")
        try:
            key = await self._keys.key(header.kid)
        except KeysUnavailable as fault:
            raise Unavailable("Tokens cannot be verified at present; the coordinator's log has the reason") from fault
        if key is None:
            raise NotAuthenticated("the token is signed with a key that the token service does not have")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._requirements.audience,
                issuer=self._requirements.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as defect:
            raise NotAuthenticated(_reason(defect)) from defect
        # PyJWT does not handle every type of claim.
        except (*DECODE_FAULTS, TypeError, OverflowError, AttributeError) as defect:
            raise NotAuthenticated("the token cannot be parsed") from defect
        return _subject(claims)


def _subject(claims: Mapping[str, object]) -> str:
    """Return the user or client of a token, for records."""
    named = (claim for name in SUBJECT_CLAIMS if isinstance(claim := claims.get(name), str) and claim.strip())
    return excerpt(next(named, UNNAMED), SUBJECT_CHARS)


def _bearer_token(authorizations: list[bytes]) -> bytes:
    """Raises `NotAuthenticated` unless there is exactly one, within the length limit."""
    if len(authorizations) != 1:
        raise NotAuthenticated("send one header 'Authorization: Bearer TOKEN'")
    scheme, _, token = authorizations[0].strip().partition(b" ")
    token = token.strip()
    if scheme.lower() != SCHEME or not token:
        raise NotAuthenticated("send a header 'Authorization: Bearer TOKEN'")
    if len(token) > TOKEN_LIMIT_BYTES:
        raise NotAuthenticated(f"the token is longer than {TOKEN_LIMIT_BYTES:,} bytes")
    return token


def _header_of(token: bytes) -> _Header:
    if _FORM.fullmatch(token) is None:
        raise NotAuthenticated("the token is not a signed JWT with a key id")
    part = token.partition(b".")[0]
    try:
        text = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=_Header)
    except (binascii.Error, *DECODE_FAULTS) as defect:
        raise NotAuthenticated("the token is not a signed JWT with a key id") from defect


def _reason(defect: jwt.PyJWTError) -> str:
    found = (text for kind, text in REASONS if isinstance(defect, kind))
    return next(found, "the token's signature or content is wrong")
