"""The public keys of a token service, fetched when needed and cached."""

import asyncio
import math
import time
from collections.abc import Callable

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from loguru import logger

from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.http_clients import ClientFactory
from fsm_runner.coordinator_client.token_service import DOMAIN_SETTING
from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.wire import DECODE_FAULTS

KEYS_LIMIT_S = 10.0
"""The time limit of a fetch."""
KEYS_LIMIT_BYTES = 1024 * 1024
KEYS_AT_MOST = 100
KEYS_AGE_S = 600.0
"""Older keys are fetched again when one is used, so that a revoked key is not accepted forever."""
FETCH_INTERVAL_S = 5.0
"""The shortest interval between fetches, however many tokens name unknown keys."""
SHORTEST_KEY_BITS = 2048
"""RFC 7518, section 3.3."""


class KeysUnavailable(FsmRunnerError):
    """The keys cannot be fetched from the token service."""


class _Key(msgspec.Struct, frozen=True):
    """A key of a JWKS (RFC 7517). Keys for other purposes have other fields."""

    kty: str
    kid: str
    n: str
    e: str
    use: str = "sig"
    alg: str = "RS256"


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


class SigningKeys:
    """The RSA keys of one URL by their ids. Concurrent callers share one fetch; `aclose` ends it."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """Raises `UsageError` if a proxy or certificate variable is invalid."""
        self._url = url
        self._new_client = ClientFactory(url, "token service", setting=DOMAIN_SETTING)
        self._now = now
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at = self._attempted_at = -math.inf
        self._fault: Unreachable | None = None
        """The error of the last fetch."""
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> RSAPublicKey | None:
        """Return the key; None if the service has no such key. Raises `KeysUnavailable`."""
        if (known := self._keys.get(key_id)) is not None:
            if self._now() - self._fetched_at >= KEYS_AGE_S:
                self._start_fetch()
            return known
        if (fetching := self._start_fetch()) is not None:
            await asyncio.wait([fetching])
            if not fetching.cancelled():
                fetching.result()
        if key_id not in self._keys and self._fault is not None:
            raise KeysUnavailable(f"the keys of the token service cannot be fetched: {self._fault}")
        return self._keys.get(key_id)

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """Return the current or a new fetch; None within `FETCH_INTERVAL_S` of the last one."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._now() - self._attempted_at < FETCH_INTERVAL_S:
            return None
        self._attempted_at = self._now()
        self._fetching = asyncio.create_task(self._fetch(), name="coordinator-signing-keys")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            response = await self._new_client.single_call("GET", timeout_s=KEYS_LIMIT_S, limit_bytes=KEYS_LIMIT_BYTES)
            self._keys = _keys_of(self._url, response.status, response.body)
        except Unreachable as fault:
            if self._fault is None:
                logger.warning("coordinator: the keys of the token service cannot be fetched: {}", fault)
            self._fault = fault
        else:
            if self._fault is not None:
                logger.info("coordinator: the keys of the token service can be fetched again: {}", self._url)
            self._fault = None
            self._fetched_at = self._now()


def _keys_of(url: str, status: int, body: bytes) -> dict[str, RSAPublicKey]:
    """Raises `Unreachable` if no key signs with RS256."""
    if status != 200:
        raise Unreachable(f"GET {url}: HTTP {status}")
    try:
        members = msgspec.json.decode(body, type=_KeySet).keys
    except DECODE_FAULTS as defect:
        raise Unreachable(f"GET {url}: HTTP {status}: not a key set: {defect}") from defect
    keys = dict(found for member in members[:KEYS_AT_MOST] if (found := _key_of(member)) is not None)
    if not keys:
        raise Unreachable(f"GET {url}: HTTP {status}: no key for RS256 among {len(members)}")
    return keys


def _key_of(member: msgspec.Raw) -> tuple[str, RSAPublicKey] | None:
    """Return None if it is not a public key for RS256; other keys of the set may be."""
    try:
        fields = msgspec.json.decode(member, type=_Key)
        if (fields.kty, fields.use, fields.alg) != ("RSA", "sig", "RS256"):
            return None
        # Only the public half, even if the set contains a private key.
        key = RSAAlgorithm.from_jwk({"kty": fields.kty, "n": fields.n, "e": fields.e})
    except (jwt.PyJWTError, *DECODE_FAULTS):
        return None
    if not isinstance(key, RSAPublicKey) or key.key_size < SHORTEST_KEY_BITS:
        return None
    return fields.kid, key
