"""The public keys of a token service: fetched when they are needed, kept, and fetched again for a key that is new."""

import asyncio
import time
from collections.abc import Callable

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from loguru import logger

from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.http_clients import ClientFactory, single_call
from fsm_runner.coordinator_client.token_service import DOMAIN_SETTING
from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.wire import DECODE_FAULTS

KEYS_LIMIT_S = 10.0
"""How long the token service may take to tell its keys."""
KEYS_LIMIT_BYTES = 1024 * 1024
KEYS_AT_MOST = 100
KEYS_AGE_S = 600.0
"""Keys that are older are fetched anew when one is used: a key that was withdrawn is not accepted for ever."""
ASKED_AGAIN_AFTER_S = 5.0
"""The token service is asked no more often, however many unknown keys are named."""
SHORTEST_KEY_BITS = 2048
"""RFC 7518, section 3.3."""


class KeysAway(FsmRunnerError):
    """The token service does not tell its keys."""


class _Key(msgspec.Struct, frozen=True):
    """One member of a JWKS, RFC 7517. Keys for other purposes have other members."""

    kty: str
    kid: str
    n: str
    e: str
    use: str = "sig"
    alg: str = "RS256"


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


class SigningKeys:
    """The RSA keys at one URL, by their ids. Callers at the same time share one fetch; `aclose` ends it."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """Raises `UsageError` where a proxy or certificate variable is no good."""
        self._url = url
        self._new_client = ClientFactory(url, "token service", setting=DOMAIN_SETTING)
        self._now = now
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._fault: Unreachable | None = None
        """Of the last attempt."""
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> RSAPublicKey | None:
        """None: there is no such key. Raises `KeysAway` where that cannot be known."""
        known = self._keys.get(key_id)
        if known is not None:
            if self._now() - (self._fetched_at or 0.0) >= KEYS_AGE_S:
                self._fetch_where_allowed()
            return known
        if (fetching := self._fetch_where_allowed()) is not None:
            await asyncio.wait([fetching])
            if not fetching.cancelled():
                fetching.result()
        if key_id not in self._keys and self._fault is not None:
            raise KeysAway(f"the keys of the token service cannot be had: {self._fault}")
        return self._keys.get(key_id)

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _fetch_where_allowed(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or a new one, unless the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._asked_at is not None and self._now() - self._asked_at < ASKED_AGAIN_AFTER_S:
            return None
        self._asked_at = self._now()
        self._fetching = asyncio.create_task(self._fetch(), name="coordinator-signing-keys")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            answer = await single_call(
                self._new_client, "GET", self._url, timeout_s=KEYS_LIMIT_S, limit_bytes=KEYS_LIMIT_BYTES
            )
            self._keys = _keys_of(self._url, answer.status, answer.body)
        except Unreachable as fault:
            if self._fault is None:
                logger.warning("coordinator: the keys of the token service cannot be had: {}", fault)
            self._fault = fault
        else:
            if self._fault is not None:
                logger.info("coordinator: the keys of the token service are to be had again: {}", self._url)
            self._fault = None
            self._fetched_at = self._now()


def _keys_of(url: str, status: int, body: bytes) -> dict[str, RSAPublicKey]:
    """Raises `Unreachable` where there is none that signs with RS256."""
    if status != 200:
        raise Unreachable(f"GET {url}: HTTP {status}")
    try:
        members = msgspec.json.decode(body, type=_KeySet).keys
    except DECODE_FAULTS as defect:
        raise Unreachable(f"GET {url}: HTTP {status}: no set of keys: {defect}") from defect
    keys = dict(found for member in members[:KEYS_AT_MOST] if (found := _key_of(member)) is not None)
    if not keys:
        raise Unreachable(f"GET {url}: HTTP {status}: no key for RS256 among {len(members)}")
    return keys


def _key_of(member: msgspec.Raw) -> tuple[str, RSAPublicKey] | None:
    """None where it is no public key for RS256, for what reason ever: others beside it may be."""
    try:
        fields = msgspec.json.decode(member, type=_Key)
        if (fields.kty, fields.use, fields.alg) != ("RSA", "sig", "RS256"):
            return None
        # Only its public half, whatever else stands there.
        key = RSAAlgorithm.from_jwk({"kty": fields.kty, "n": fields.n, "e": fields.e})
    except (jwt.PyJWTError, *DECODE_FAULTS):
        return None
    if not isinstance(key, RSAPublicKey) or key.key_size < SHORTEST_KEY_BITS:
        return None
    return fields.kid, key
