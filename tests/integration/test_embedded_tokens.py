"""The embedded coordinator with required tokens, and a token service over TLS."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from fsm_runner.coordinator_server.auth import signing_keys
from fsm_runner.coordinator_server.auth.signing_keys import FETCH_INTERVAL_S, KEYS_AGE_S, SigningKeys
from fsm_runner.coordinator_server.auth.tokens import LEEWAY_S, TOKEN_LIMIT_BYTES
from tests.support.embedded import Clock, EmbeddedCoordinator, embedded_coordinator
from tests.support.issuer import AUDIENCE, KEY_ID, Issuer, issuing, private_key, public_jwk
from tests.support.logs import log_lines


@pytest.fixture
async def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    async with issuing(tmp_path) as (issuer, authority_file):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
        # Requests to this machine must not use the proxy.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        yield issuer


async def status_with(coordinator: EmbeddedCoordinator, *authorizations: str | bytes) -> int:
    values = [each if isinstance(each, bytes) else each.encode() for each in authorizations]
    answer = await coordinator.http.get("/runs", headers=[(b"Authorization", each) for each in values])
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "Not authenticated" in answer.json()["detail"]
        assert "Runner not registered" not in answer.text
    return answer.status_code


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed_with_the_public_key(issuer: Issuer) -> str:
    """Return a token signed with HS256 and the public key as its secret."""
    pem = (
        private_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': KEY_ID})}.{part(issuer.claims())}"
    return f"{text}.{part(hmac.digest(pem, text.encode(), hashlib.sha256))}"


def with_header(issuer: Issuer, header: Any) -> str:
    _, claims, signature = issuer.token().split(".")
    return f"{part(header)}.{claims}.{signature}"


async def test_only_requests_with_a_token_are_answered(issuer: Issuer) -> None:
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        assert await status_with(coordinator, f"Bearer {issuer.token()}") == 200
        assert await status_with(coordinator, f"bearer  {issuer.token(aud=['other', AUDIENCE])}") == 200
        assert await status_with(coordinator) == 401
        assert await status_with(coordinator, *[f"Bearer {issuer.token()}"] * 2) == 401
        assert (await coordinator.http.post("/runner/register", json={})).status_code == 401
        assert (await coordinator.http.get("/no/such/path")).status_code == 401
        assert (await coordinator.http.get("/health")).status_code == 200


async def test_tokens_with_wrong_claims_are_refused(issuer: Issuer) -> None:
    now = time.time()
    wrong: list[dict[str, Any]] = [
        {"exp": now - LEEWAY_S - 5},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": [1]},
        {"nbf": now + LEEWAY_S + 60},
        {"iat": now + LEEWAY_S + 60},
        {"iat": "then"},
        {"iss": None},
        {"iss": f"https://{issuer.domain}"},
        {"iss": ["https://evil.example/"]},
        {"aud": None},
        {"aud": "https://other.example"},
        {"aud": [1, None]},
        {"aud": {}},
    ]
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        for claims in wrong:
            try:
                token = issuer.token(**claims)
            except TypeError:  # PyJWT does not encode such an issuer, so the test signs the claim
                body = f"{part({'alg': 'RS256', 'kid': KEY_ID})}.{part(issuer.claims(**claims))}"
                signature = jwt.get_algorithm_by_name("RS256").sign(body.encode(), private_key())
                token = f"{body}.{part(signature)}"
            assert await status_with(coordinator, f"Bearer {token}") == 401, claims
        assert await status_with(coordinator, f"Bearer {issuer.token(exp=now - LEEWAY_S / 2)}") == 200


async def test_tokens_of_another_form_or_signature_are_refused(issuer: Issuer) -> None:
    token = issuer.token()
    forged: list[str | bytes] = [
        f"{part({'alg': 'none', 'kid': KEY_ID})}.{part(issuer.claims())}.",
        with_header(issuer, {"alg": "none", "kid": KEY_ID}),
        signed_with_the_public_key(issuer),
        with_header(issuer, {"alg": "RS256"}),
        with_header(issuer, {"alg": "RS256", "kid": 7}),
        with_header(issuer, {"alg": "RS384", "kid": KEY_ID}),
        with_header(issuer, {"alg": "RS256", "kid": KEY_ID, "b64": False, "crit": ["b64"]}),
        with_header(issuer, b"[" * 10_000),
        with_header(issuer, b'{"kid": "key-1", "alg": "RS256", "x": ' + b"[" * 10_000),
        with_header(issuer, b'{"kid": "key-1", "alg": "RS256", "x": ' + b"9" * 10_000 + b"}"),
        jwt.encode(issuer.claims(), private_key("other"), algorithm="RS256", headers={"kid": KEY_ID}),
        token[:-4],
        token + "AA",
        f"{token}.",
        "x" * (TOKEN_LIMIT_BYTES + 1),
        "..",
        "garbage",
        "ä.ö.ü".encode(),
        b"\xff\xfe.\x80.\x81",
    ]
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        for each in forged:
            text = each if isinstance(each, bytes) else each.encode()
            assert await status_with(coordinator, b"Bearer " + text) == 401, each
        for scheme in ("Basic dXNlcjpwYXNz", "Bearer", token, ""):
            assert await status_with(coordinator, scheme) == 401, scheme
        assert await status_with(coordinator, f"Bearer {token}") == 200


async def test_concurrent_requests_share_one_fetch_of_the_keys(issuer: Issuer) -> None:
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        answers = await asyncio.gather(*(status_with(coordinator, f"Bearer {issuer.token()}") for _ in range(10)))
    assert answers == [200] * 10
    assert issuer.keys_served == 1


async def test_a_new_key_is_found_and_an_unknown_one_is_fetched_rarely(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        assert await status_with(coordinator, f"Bearer {issuer.token()}") == 200
        issuer.keys.append(public_jwk("key-2"))
        for _ in range(5):
            assert await status_with(coordinator, f"Bearer {issuer.token(key_id='key-2')}") == 401
        assert issuer.keys_served == 1
        monkeypatch.setattr(signing_keys, "FETCH_INTERVAL_S", 0.0)
        assert await status_with(coordinator, f"Bearer {issuer.token(key_id='key-2')}") == 200
        assert await status_with(coordinator, f"Bearer {issuer.token()}") == 200
    assert issuer.keys_served == 2


async def test_a_revoked_key_is_not_accepted_forever(issuer: Issuer) -> None:
    clock = Clock()
    keys = SigningKeys(issuer.requirements.keys_url, now=clock)
    assert await keys.key(KEY_ID) is not None
    issuer.keys = [public_jwk("key-2")]
    clock.now_s += KEYS_AGE_S
    # Requests with known keys do not wait for the fetch; later ones use its result.
    assert await keys.key(KEY_ID) is not None
    assert await keys.key("key-2") is not None
    clock.now_s += FETCH_INTERVAL_S
    assert await keys.key(KEY_ID) is None
    await keys.aclose()


async def test_keys_that_cannot_be_fetched_are_logged_once_and_are_a_503(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_keys, "FETCH_INTERVAL_S", 0.0)
    issuer.away = True
    with log_lines() as lines:
        async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
            for _ in range(3):
                answer = await coordinator.http.get("/runs", headers={"Authorization": f"Bearer {issuer.token()}"})
                assert answer.status_code == 503
                # The response reveals no internals.
                assert issuer.requirements.keys_url not in answer.json()["detail"]
            assert await status_with(coordinator) == 401
            issuer.away = False
            assert await status_with(coordinator, f"Bearer {issuer.token()}") == 200
            issuer.away = True
            # The cached key is still accepted.
            assert await status_with(coordinator, f"Bearer {issuer.token()}") == 200
    assert len([line for line in lines if "keys of the token service cannot be fetched" in line]) == 1
    assert len([line for line in lines if "can be fetched again" in line]) == 1


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": KEY_ID}],
        [{"kty": "RSA", "kid": KEY_ID, "n": "!", "e": "AQAB"}],
        [{"kty": "RSA", "kid": KEY_ID, "n": "AQAB", "e": "AQAB"}],
        [{**public_jwk(), "use": "enc"}],
        [{**public_jwk(), "alg": "RS512"}],
        ["x" * 2_000_000],
        [7, None, []],
    ],
)
async def test_invalid_keys_are_ignored(issuer: Issuer, keys: list[Any]) -> None:
    issuer.keys = keys
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        assert await status_with(coordinator, f"Bearer {issuer.token()}") == 503


async def test_a_coordinator_that_waits_for_keys_stops_at_once(issuer: Issuer) -> None:
    issuer.gate.clear()
    async with embedded_coordinator(token_requirements=issuer.requirements) as coordinator:
        call = asyncio.create_task(coordinator.http.get("/runs", headers={"Authorization": f"Bearer {issuer.token()}"}))
        await issuer.served_keys(1)
        await coordinator.server.stop()
        with pytest.raises(httpx.HTTPError):
            await call
    issuer.gate.set()
