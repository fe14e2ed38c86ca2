"""The renewal of tokens, callers that wait for it, and failures of the token service."""

import asyncio

import pytest
from starlette.responses import JSONResponse, Response

from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Unreachable
from fsm_runner.coordinator_client.policy import (
    POLICIES,
    TOKEN_LIFETIME_LIMIT_S,
    TOKEN_MARGIN_S,
    TOKEN_REPLACE_INTERVAL_S,
    TOKEN_RESPONSE_LIMIT_BYTES,
)
from fsm_runner.diagnostics.redaction import MASK, Redactor
from tests.support.logs import log_lines
from tests.support.token_bench import LIFETIME_S, LOGIN, SECRET, bench


async def test_a_renewal_does_not_delay_calls_while_the_old_token_is_valid() -> None:
    async with bench() as at:
        await at.api.health()
        at.clock.now_s += LIFETIME_S - TOKEN_MARGIN_S - 1
        await at.api.health()
        assert at.service.asked == 1
        at.clock.now_s += 1
        at.service.gate.clear()
        await asyncio.gather(*(at.api.health() for _ in range(10)))
        await at.service.has_been_asked(2)
        await at.api.health()
        assert at.service.seen == ["token-1"] * 13
        at.service.gate.set()
        await at.renewed()
        await at.api.health()
        assert at.service.seen[-1] == "token-2"
        assert at.service.asked == 2


async def test_an_expired_token_is_not_used_and_callers_share_the_wait_for_the_next() -> None:
    async with bench() as at:
        await at.api.health()
        at.clock.now_s += LIFETIME_S
        at.service.gate.clear()
        calls = [asyncio.create_task(at.api.health()) for _ in range(10)]
        await at.service.has_been_asked(2)
        calls[0].cancel()  # who gives up does not take the others with it
        at.service.gate.set()
        await asyncio.gather(*calls[1:])
        assert at.service.seen == ["token-1", *["token-2"] * 9]
        assert at.service.asked == 2


async def test_a_lifetime_counts_from_the_request() -> None:
    async with bench() as at:
        at.service.gate.clear()
        call = asyncio.create_task(at.api.health())
        await at.service.has_been_asked(1)
        # The response takes longer than the token's lifetime. The waiting callers still use the token once.
        at.clock.now_s += LIFETIME_S
        at.service.gate.set()
        await call
        await at.api.health()
        assert at.service.seen == ["token-1", "token-2"]


async def test_a_short_lifetime_has_a_short_margin() -> None:
    async with bench() as at:
        at.service.expires_in = 4
        await at.api.health()
        at.clock.now_s += 2.9
        await at.api.health()
        assert at.service.asked == 1
        at.clock.now_s += 0.2
        await at.api.health()
        await at.renewed()
        await at.api.health()
        assert at.service.seen == ["token-1", "token-1", "token-1", "token-2"]


async def test_callers_with_a_rejected_token_share_one_renewal() -> None:
    async with bench() as at:
        await at.api.health()
        at.service.refused = {"token-1"}
        at.service.all_there = asyncio.Barrier(10)
        await asyncio.gather(*(at.api.health() for _ in range(10)))
        assert at.service.asked == 2
        assert at.service.seen == ["token-1"] * 11 + ["token-2"] * 10


async def test_a_coordinator_that_rejects_all_tokens_does_not_cost_one_per_call() -> None:
    async with bench() as at:
        at.service.refused = {f"token-{number}" for number in range(1, 100)}
        for _ in range(10):
            with pytest.raises(NotAuthenticated):
                await at.api.health()
        assert at.service.asked == 2
        at.clock.now_s += TOKEN_REPLACE_INTERVAL_S
        with pytest.raises(NotAuthenticated):
            await at.api.health()
        assert at.service.asked == 3


async def test_an_unreachable_token_service_is_retried_and_logged_once() -> None:
    async with bench() as at:
        at.service.answer = Response("<html>Bad Gateway</html>", 502)
        with log_lines() as lines:
            for _ in range(5):
                with pytest.raises(Unreachable, match=r"oauth/token: HTTP 502") as caught:
                    await at.api.health()
                assert not caught.value.may_have_arrived
            assert at.service.asked == 1
            for _ in range(3):
                at.clock.now_s += POLICIES.token.cap_s
                with pytest.raises(Unreachable):
                    await at.api.health()
            assert at.service.asked == 4
            at.service.answer = None
            at.clock.now_s += POLICIES.token.cap_s
            await at.api.health()
        assert at.service.seen == ["token-5"]
        assert len([line for line in lines if "token renewal failed" in line]) == 1
        assert len([line for line in lines if "token renewal works again" in line]) == 1


async def test_a_token_is_used_until_it_expires_while_the_token_service_is_unreachable() -> None:
    async with bench() as at:
        await at.api.health()
        at.service.answer = Response(status_code=503)
        at.clock.now_s += LIFETIME_S - TOKEN_MARGIN_S
        with log_lines() as lines:
            await at.api.health()
            await at.renewed()
            await at.api.health()
        assert any("used until it expires" in line for line in lines)
        at.clock.now_s += TOKEN_MARGIN_S
        with pytest.raises(Unreachable, match="503"):
            await at.api.health()
        assert at.service.seen == ["token-1"] * 3


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (401, b"", NotAuthenticated),
        (403, b"<html>", NotAuthenticated),
        (400, b'{"error": "invalid_request"}', NotAuthenticated),
        (404, b"<html>no such page", Unreachable),
        (408, b"{}", Unreachable),
        (429, b'{"error": "too_many_requests"}', Unreachable),
        (302, b"", Unreachable),
        (500, b"{}", Unreachable),
    ],
)
async def test_a_rejection_differs_from_an_unreachable_service(
    status: int, body: bytes, fault: type[CoordinatorError]
) -> None:
    async with bench() as at:
        at.service.answer = Response(body, status)
        with pytest.raises(fault, match=f"HTTP {status}"):
            await at.api.health()
        with pytest.raises(fault, match=f"HTTP {status}"):
            await at.api.health()
        assert at.service.asked == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b'{"access_token": "x"}',
        b'{"access_token": "", "expires_in": 60}',
        b'{"access_token": "a\\nb", "expires_in": 60}',
        b'{"access_token": "a b", "expires_in": 60}',
        b'{"access_token": "t\\u00f6ken", "expires_in": 60}',
        b'{"access_token": "\\ud800", "expires_in": 60}',
        b'{"access_token": 7, "expires_in": 60}',
        b'{"access_token": "x", "expires_in": -1}',
        b'{"access_token": "x", "expires_in": 0}',
        b'{"access_token": "x", "expires_in": NaN}',
        b'{"access_token": "x", "expires_in": Infinity}',
        b'{"access_token": "x", "expires_in": 1e999}',
        b'{"access_token": "x", "expires_in": "60"}',
        b'{"access_token": "x", "expires_in": ' + b"9" * 5000 + b"}",
        b'{"x": ' + b"[" * 50_000,
        b" " * (TOKEN_RESPONSE_LIMIT_BYTES + 1),
        b'{"access_token": "' + b"x" * 64 * 1024 * 1024 + b'", "expires_in": 60}',
    ],
    ids=lambda body: body[:60].decode(),
)
async def test_an_invalid_response_counts_as_unreachable(body: bytes) -> None:
    async with bench() as at:
        at.service.answer = Response(body)
        with pytest.raises(Unreachable, match="oauth/token"):
            await at.api.health()
        at.service.answer = None
        at.clock.now_s += POLICIES.token.cap_s
        await at.api.health()


async def test_an_endless_401_is_read_up_to_the_limit() -> None:
    async with bench() as at:
        at.service.refused = {"token-1"}
        at.service.endless = True
        with pytest.raises(Unreachable, match="larger than"):
            await at.api.health()
        at.service.refused = set()
        await at.api.health()


async def test_an_endless_lifetime_is_limited() -> None:
    async with bench() as at:
        at.service.expires_in = 1e300
        await at.api.health()
        at.clock.now_s += TOKEN_LIFETIME_LIMIT_S
        await at.api.health()
        assert at.service.seen == ["token-1", "token-2"]


async def test_a_caller_that_waits_at_shutdown_gets_an_error() -> None:
    async with bench() as at:
        at.service.gate.clear()
        call = asyncio.create_task(at.api.health())
        await at.service.has_been_asked(1)
        await at.auth.aclose()
        with pytest.raises(Unreachable, match="the program is shutting down"):
            await call


async def test_tokens_and_the_secret_are_never_shown() -> None:
    redactor = Redactor([SECRET])
    async with bench(redactor) as at:
        with log_lines() as lines:
            for _ in range(3):
                await at.api.health()
                at.clock.now_s += LIFETIME_S
            at.service.answer = JSONResponse({"error": SECRET, "error_description": f"no {SECRET}"}, 401)
            with pytest.raises(NotAuthenticated) as caught:
                await at.api.health()
        for text in (*lines, str(caught.value), repr(LOGIN), repr(caught.value)):
            assert SECRET not in text
            assert "token-" not in text
        # Calls with the previous token may still be in flight.
        assert [redactor.text(f"token-{number}") for number in (1, 2, 3)] == ["token-1", MASK, MASK]
