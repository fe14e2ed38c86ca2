"""Whether a token that a caller brings is one of the token service, for this coordinator, and of now."""

import base64
import binascii
import re

import jwt
import msgspec

from fsm_runner.coordinator_server.auth.signing_keys import KeysAway, SigningKeys
from fsm_runner.coordinator_server.auth.token_requirements import TokenDemand
from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.protocol.wire import DECODE_FAULTS

ALGORITHM = "RS256"
"""The only one: what a token says of itself is not believed."""
LEEWAY_S = 10.0
"""How far the clocks of this machine and of the token service may be apart."""
TOKEN_LIMIT_BYTES = 16 * 1024
SCHEME = b"bearer"
_FORM = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""One form for one token (RFC 7515, section 3.1): padding and other letters are no more than what base64 bears."""

REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet: the clocks of two machines differ"),
    (jwt.InvalidAudienceError, "the token is for another audience than this coordinator's AUTH0_AUDIENCE"),
    (jwt.InvalidIssuerError, "the token was issued by another service than this coordinator's AUTH0_DOMAIN"),
    (jwt.MissingRequiredClaimError, "the token lacks exp, iss or aud"),
)
"""What a refusal says. None repeats what the caller has sent."""


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str


class TokenVerifier:
    """Knows the tokens of one token service by its keys. `aclose` ends what it has under way."""

    def __init__(self, demand: TokenDemand, keys: SigningKeys | None = None) -> None:
        """Raises `UsageError` where a proxy or certificate variable is no good."""
        self._demand = demand
        self._keys = SigningKeys(demand.keys_url) if keys is None else keys

    async def aclose(self) -> None:
        await self._keys.aclose()

    async def check(self, authorizations: list[bytes]) -> None:
        """`authorizations`: the values of all `Authorization` headers of a request.

        Raises a `Refusal` with status 401, or 503 where the keys cannot be had.
        """
        token = _bearer_token(authorizations)
        header = _header_of(token)
        if header.alg != ALGORITHM:
            raise _not_authenticated(f"the token is not signed with {ALGORITHM}")
        try:
            key = await self._keys.key(header.kid)
        except KeysAway as away:
            raise Refusal(503, "Tokens cannot be checked now: the coordinator's log says why") from away
        if key is None:
            raise _not_authenticated("the token is signed with a key that the token service does not have")
        try:
            jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._demand.audience,
                issuer=self._demand.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as defect:
            raise _not_authenticated(_reason(defect)) from defect
        # A claim may be a number without end or a text where PyJWT counts on neither.
        except (*DECODE_FAULTS, TypeError, OverflowError, AttributeError) as defect:
            raise _not_authenticated("the token cannot be read") from defect


def _bearer_token(authorizations: list[bytes]) -> bytes:
    """Raises a `Refusal` where there is not exactly one, of bearable length."""
    if len(authorizations) != 1:
        raise _not_authenticated("send one header 'Authorization: Bearer TOKEN'")
    scheme, _, token = authorizations[0].strip().partition(b" ")
    token = token.strip()
    if scheme.lower() != SCHEME or not token:
        raise _not_authenticated("send a header 'Authorization: Bearer TOKEN'")
    if len(token) > TOKEN_LIMIT_BYTES:
        raise _not_authenticated(f"the token is longer than {TOKEN_LIMIT_BYTES:,} bytes")
    return token


def _header_of(token: bytes) -> _Header:
    if _FORM.fullmatch(token) is None:
        raise _not_authenticated("the token is no signed JWT with a key id")
    part = token.partition(b".")[0]
    try:
        text = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=_Header)
    except (binascii.Error, *DECODE_FAULTS) as defect:
        raise _not_authenticated("the token is no signed JWT with a key id") from defect


def _reason(defect: jwt.PyJWTError) -> str:
    found = (text for kind, text in REASONS if isinstance(defect, kind))
    return next(found, "the token's signature or content is wrong")


def _not_authenticated(reason: str) -> Refusal:
    return Refusal(401, f"Not authenticated: {reason}")
