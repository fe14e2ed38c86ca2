"""Only intact tokens are accepted, and no other token causes an error other than `NotAuthenticated`."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import assume, given
from hypothesis import strategies as st

from fsm_runner.coordinator_server.auth.signing_keys import SigningKeys
from fsm_runner.coordinator_server.auth.tokens import TokenRequirements, TokenVerifier
from fsm_runner.coordinator_server.errors import NotAuthenticated
from tests.support.issuer import AUDIENCE, KEY_ID, private_key

REQUIREMENTS = TokenRequirements(domain="tenant.example", audience=AUDIENCE)
CLAIMS = {"iss": REQUIREMENTS.issuer, "aud": AUDIENCE, "sub": "me", "exp": time.time() + 3600, "iat": time.time()}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


class KnownKeys(SigningKeys):
    """One known key, without a token service."""

    async def key(self, key_id: str) -> RSAPublicKey | None:
        return private_key().public_key() if key_id == KEY_ID else None


VERIFIER = TokenVerifier(REQUIREMENTS, KnownKeys(REQUIREMENTS.keys_url))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: Any, header: Any = None) -> str:
    head = encoded(json.dumps(header or {"alg": "RS256", "kid": KEY_ID}).encode())
    text = f"{head}.{encoded(json.dumps(claims).encode())}"
    signature = jwt.get_algorithm_by_name("RS256").sign(text.encode(), private_key())
    return f"{text}.{encoded(signature)}"


WHOLE = signed(CLAIMS)


def is_accepted(authorization: bytes) -> bool:
    """Return False if the token is refused with `NotAuthenticated`; raise any other error."""
    try:
        asyncio.run(VERIFIER.check([authorization]))
    except NotAuthenticated as refusal:
        assert str(refusal.detail).startswith("Not authenticated: ")
        return False
    return True


def test_an_intact_token_is_accepted() -> None:
    assert is_accepted(b"Bearer " + WHOLE.encode())


@given(st.data())
def test_a_token_with_a_changed_byte_is_refused(data: st.DataObject) -> None:
    token = bytearray(WHOLE.encode())
    index = data.draw(st.integers(0, len(token) - 1))
    token[index] = data.draw(st.integers(0, 255))
    # The last character of a part has unused bits.
    assume([_bytes_of(each) for each in bytes(token).split(b".")] != [_bytes_of(e) for e in WHOLE.encode().split(b".")])
    assert not is_accepted(b"Bearer " + token)


@given(st.integers(0, 2), st.text("=+/ \n", min_size=1, max_size=3))
def test_a_token_with_added_characters_is_refused(part: int, more: str) -> None:
    parts = WHOLE.split(".")
    parts[part] += more
    changed = ".".join(parts)
    assume(changed.strip() != WHOLE)
    assert not is_accepted(b"Bearer " + changed.encode())


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, len(WHOLE)), st.binary(max_size=20))
def test_a_token_with_a_replaced_part_is_refused(begin: int, length: int, put: bytes) -> None:
    token = WHOLE.encode()
    changed = token[:begin] + put + token[begin + length :]
    assume(changed.strip() != token and _signature(changed) != _signature(token))
    assert not is_accepted(b"Bearer " + changed)


@given(JSON)
def test_a_changed_header_is_refused(header: Any) -> None:
    _, claims, signature = WHOLE.split(".")
    known = {"alg": "RS256", "kid": KEY_ID}
    for each in (header, {**known, "x": header}, {**known, "alg": header}, {**known, "crit": header, "b64": header}):
        assert not is_accepted(f"Bearer {encoded(json.dumps(each).encode())}.{claims}.{signature}".encode())


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(garbage: bytes) -> None:
    for each in (garbage, b"Bearer " + garbage, b"Bearer " + b".".join([garbage] * 3)):
        assert not is_accepted(each)


@given(st.sampled_from(["iss", "aud", "exp"]), JSON)
def test_a_signed_token_with_a_wrong_claim_is_refused(name: str, value: Any) -> None:
    assume(not _is_good(name, value))
    assert not is_accepted(b"Bearer " + signed({**CLAIMS, name: value}).encode())


@given(st.sampled_from(["nbf", "iat", "sub", "jti", "x"]), JSON)
def test_no_claim_of_a_signed_token_causes_a_crash(name: str, value: Any) -> None:
    is_accepted(b"Bearer " + signed({**CLAIMS, name: value}).encode())


@given(JSON)
def test_signed_claims_of_any_form_are_refused(claims: Any) -> None:
    assert not is_accepted(b"Bearer " + signed(claims).encode())


@given(JSON)
def test_no_signed_header_causes_a_crash(value: Any) -> None:
    for name in ("alg", "kid", "b64", "crit", "typ", "zip"):
        is_accepted(b"Bearer " + signed(CLAIMS, {"alg": "RS256", "kid": KEY_ID, name: value}).encode())


def _is_good(name: str, value: Any) -> bool:
    if name == "exp":
        # PyJWT converts such values to numbers, and the token service has signed them.
        try:
            return int(value) > time.time() - 60
        except (TypeError, ValueError, OverflowError):
            return False
    return bool(value == CLAIMS[name]) or (name == "aud" and isinstance(value, list) and CLAIMS["aud"] in value)


def _bytes_of(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError:
        return part


def _signature(token: bytes) -> list[bytes]:
    return [_bytes_of(part) for part in token.split(b".")]
