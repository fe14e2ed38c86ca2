"""The embedded coordinator where it demands tokens, of a token service over TLS."""

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
from tests.support.embedded import Clock, Desk, coordinator
from tests.support.issuer import AUDIENCE, KEY_ID, Issuer, issuing, private_key, public_jwk
from tests.support.logs import log_lines


@pytest.fixture
async def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    async with issuing(tmp_path) as (issuer, authority_file):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
        # Nothing that goes to this machine goes through a proxy.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        yield issuer


async def status_with(desk: Desk, *authorizations: str | bytes) -> int:
    values = [each if isinstance(each, bytes) else each.encode() for each in authorizations]
    answer = await desk.http.get("/runs", headers=[(b"Authorization", each) for each in values])
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "Not authenticated" in answer.json()["detail"]
        assert "Runner not registered" not in answer.text
    return answer.status_code


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed_with_the_public_key(issuer: Issuer) -> str:
    """HS256 whose secret everybody knows."""
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


async def test_a_call_with_a_token_is_answered_and_one_without_is_not(issuer: Issuer) -> None:
    async with coordinator(token_requirements=issuer.requirements) as desk:
        assert await status_with(desk, f"Bearer {issuer.token()}") == 200
        assert await status_with(desk, f"bearer  {issuer.token(aud=['other', AUDIENCE])}") == 200
        assert await status_with(desk) == 401
        assert await status_with(desk, *[f"Bearer {issuer.token()}"] * 2) == 401
        assert (await desk.http.post("/runner/register", json={})).status_code == 401
        assert (await desk.http.get("/no/such/path")).status_code == 401
        assert (await desk.http.get("/health")).status_code == 200


async def test_tokens_that_are_not_for_here_are_refused(issuer: Issuer) -> None:
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
    async with coordinator(token_requirements=issuer.requirements) as desk:
        for claims in wrong:
            try:
                token = issuer.token(**claims)
            except TypeError:  # PyJWT writes no such issuer; the claim is signed by hand
                body = f"{part({'alg': 'RS256', 'kid': KEY_ID})}.{part(issuer.claims(**claims))}"
                signature = jwt.get_algorithm_by_name("RS256").sign(body.encode(), private_key())
                token = f"{body}.{part(signature)}"
            assert await status_with(desk, f"Bearer {token}") == 401, claims
        assert await status_with(desk, f"Bearer {issuer.token(exp=now - LEEWAY_S / 2)}") == 200


async def test_what_is_no_token_of_the_service_is_refused(issuer: Issuer) -> None:
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
    async with coordinator(token_requirements=issuer.requirements) as desk:
        for each in forged:
            text = each if isinstance(each, bytes) else each.encode()
            assert await status_with(desk, b"Bearer " + text) == 401, each
        for scheme in ("Basic dXNlcjpwYXNz", "Bearer", token, ""):
            assert await status_with(desk, scheme) == 401, scheme
        assert await status_with(desk, f"Bearer {token}") == 200


async def test_keys_are_fetched_once_for_all_that_ask_at_once(issuer: Issuer) -> None:
    async with coordinator(token_requirements=issuer.requirements) as desk:
        answers = await asyncio.gather(*(status_with(desk, f"Bearer {issuer.token()}") for _ in range(10)))
    assert answers == [200] * 10
    assert issuer.keys_told == 1


async def test_a_new_key_is_found_and_an_unknown_one_is_not_asked_for_all_the_time(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coordinator(token_requirements=issuer.requirements) as desk:
        assert await status_with(desk, f"Bearer {issuer.token()}") == 200
        issuer.keys.append(public_jwk("key-2"))
        for _ in range(5):
            assert await status_with(desk, f"Bearer {issuer.token(key_id='key-2')}") == 401
        assert issuer.keys_told == 1
        monkeypatch.setattr(signing_keys, "FETCH_INTERVAL_S", 0.0)
        assert await status_with(desk, f"Bearer {issuer.token(key_id='key-2')}") == 200
        assert await status_with(desk, f"Bearer {issuer.token()}") == 200
    assert issuer.keys_told == 2


async def test_a_key_that_was_withdrawn_is_not_accepted_for_ever(issuer: Issuer) -> None:
    clock = Clock()
    keys = SigningKeys(issuer.requirements.keys_url, now=clock)
    assert await keys.key(KEY_ID) is not None
    issuer.keys = [public_jwk("key-2")]
    clock.now_s += KEYS_AGE_S
    # Nobody waits for keys that are known; the next caller has the new ones.
    assert await keys.key(KEY_ID) is not None
    assert await keys.key("key-2") is not None
    clock.now_s += FETCH_INTERVAL_S
    assert await keys.key(KEY_ID) is None
    await keys.aclose()


async def test_keys_that_cannot_be_had_are_said_once_and_answered_with_503(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_keys, "FETCH_INTERVAL_S", 0.0)
    issuer.away = True
    with log_lines() as lines:
        async with coordinator(token_requirements=issuer.requirements) as desk:
            for _ in range(3):
                answer = await desk.http.get("/runs", headers={"Authorization": f"Bearer {issuer.token()}"})
                assert answer.status_code == 503
                # Whoever has no good token is told nothing of what is inside.
                assert issuer.requirements.keys_url not in answer.json()["detail"]
            assert await status_with(desk) == 401
            issuer.away = False
            assert await status_with(desk, f"Bearer {issuer.token()}") == 200
            issuer.away = True
            # A known key goes on being known.
            assert await status_with(desk, f"Bearer {issuer.token()}") == 200
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
async def test_keys_that_are_no_good_are_none(issuer: Issuer, keys: list[Any]) -> None:
    issuer.keys = keys
    async with coordinator(token_requirements=issuer.requirements) as desk:
        assert await status_with(desk, f"Bearer {issuer.token()}") == 503


async def test_a_coordinator_that_waits_for_keys_ends_at_once(issuer: Issuer) -> None:
    issuer.gate.clear()
    async with coordinator(token_requirements=issuer.requirements) as desk:
        call = asyncio.create_task(desk.http.get("/runs", headers={"Authorization": f"Bearer {issuer.token()}"}))
        await issuer.told_keys(1)
        await desk.server.stop()
        with pytest.raises(httpx.HTTPError):
            await call
    issuer.gate.set()
