"""Executors that use the SDK and end a turn at a limit of their provider."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from fsm_runner.protocol.json_text import encode_json
from fsm_runner.reporting.provider_limit import decode_provider_limit
from tests.support.executor_program import (
    SESSION_ID,
    SHUTDOWN,
    RecordingGateway,
    executor,
    invocation,
    python_executor,
    turn,
)

RESET = "2026-03-01T15:00:00Z"
LIMITED = {"type": "turn_complete", "result": "", "limited": True}
ERROR = f"Error: the limit five_hour is reached; it resets at {RESET}: You've hit your limit\n"

LIMITED_THEN_UPPER = """
async def main(session):
    async for turn in session.turns():
        if turn.prompt == "hello":
            await turn.limited("five_hour", 1772377200, message="You've hit your limit")
        else:
            await turn.complete(turn.prompt.upper())
"""


@pytest.fixture
async def gateway() -> AsyncIterator[RecordingGateway]:
    async with RecordingGateway().serving() as gateway:
        yield gateway


async def one_shot(tmp_path: Path, gateway: RecordingGateway, body: str) -> tuple[int, str]:
    """Return exit code and stderr."""
    async with executor(python_executor(tmp_path / "test", body), gateway) as process:
        await process.send(invocation())
        process.close_stdin()
        return await process.ended()


async def test_a_persistent_executor_continues_after_a_limit(tmp_path: Path, gateway: RecordingGateway) -> None:
    async with executor(python_executor(tmp_path / "test", LIMITED_THEN_UPPER), gateway) as process:
        await process.send(invocation())
        assert await process.message() == LIMITED
        sent = {"kind": "five_hour", "resets_at": RESET, "scope": "credential", "message": "You've hit your limit"}
        assert gateway.calls == [("PATCH", "/metadata", {"session_id": SESSION_ID, "limit": sent})]
        await process.send(turn(prompt="hello"), turn(prompt="continue"))
        assert await process.message() == LIMITED
        assert await process.result() == "CONTINUE"
        process.close_stdin()
        assert await process.ended() == (0, "")
    assert gateway.results() == ["CONTINUE"]


async def test_a_one_shot_executor_fails_with_the_limit(tmp_path: Path, gateway: RecordingGateway) -> None:
    assert await one_shot(tmp_path, gateway, LIMITED_THEN_UPPER) == (1, ERROR)
    assert [path for _, path, _ in gateway.calls] == ["/metadata"]


@pytest.mark.parametrize("then", ["return", "break"])
async def test_an_executor_that_ends_at_a_limit_fails(tmp_path: Path, gateway: RecordingGateway, then: str) -> None:
    """Its input is still open, as in a persistent executor."""
    body = LIMITED_THEN_UPPER.replace('limit")\n', f'limit")\n            {then}\n')
    async with executor(python_executor(tmp_path / "test", body), gateway) as process:
        await process.send(invocation())
        assert await process.message() == LIMITED
        assert await process.ended() == (1, ERROR)


async def test_the_end_of_the_input_after_a_limit_is_its_failure(tmp_path: Path, gateway: RecordingGateway) -> None:
    async with executor(python_executor(tmp_path / "test", LIMITED_THEN_UPPER), gateway) as process:
        await process.send(invocation())
        assert await process.message() == LIMITED
        process.close_stdin()
        assert await process.ended() == (1, ERROR)


async def test_a_one_shot_executor_that_catches_the_limit_fails(tmp_path: Path, gateway: RecordingGateway) -> None:
    body = """
async def main(session):
    async for turn in session.turns():
        try:
            await turn.limited("five_hour", 1772377200, message="You've hit your limit")
        except fsm_executor.ExecutorError as error:
            caught = error
"""
    assert await one_shot(tmp_path, gateway, body) == (1, ERROR)


async def test_the_end_of_a_limited_executor_by_the_runner_is_no_failure(
    tmp_path: Path, gateway: RecordingGateway
) -> None:
    for signalled in (False, True):
        async with executor(python_executor(tmp_path / "test", LIMITED_THEN_UPPER), gateway) as process:
            await process.send(invocation())
            assert await process.message() == LIMITED
            if signalled:
                process.process.terminate()
                assert await process.ended() == (128 + signal.SIGTERM, "")
            else:
                await process.send(SHUTDOWN)
                process.close_stdin()
                assert await process.ended() == (0, "")


async def test_a_limit_that_the_gateway_rejects_ends_no_turn(tmp_path: Path, gateway: RecordingGateway) -> None:
    gateway.answers["/metadata"] = JSONResponse({"detail": "the coordinator is away"}, status_code=502)
    code, stderr = await one_shot(tmp_path, gateway, LIMITED_THEN_UPPER)
    assert (code, stderr) == (1, "Error: PATCH /metadata was answered with 502: the coordinator is away\n")


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('"weekly"', {"kind": "weekly", "resets_at": None, "scope": "credential", "message": ""}),
        ('"k", 0.5, "session"', {"kind": "k", "resets_at": "1970-01-01T00:00:00.500000Z", "scope": "session"}),
        ('"k", datetime(2026, 3, 1, 16, tzinfo=timezone(timedelta(hours=1)))', {"resets_at": RESET}),
        ('"k", datetime(9999, 12, 31, tzinfo=timezone.utc)', {"resets_at": "9999-12-31T00:00:00Z"}),
    ],
)
async def test_a_limit_is_what_a_runner_reads(
    tmp_path: Path, gateway: RecordingGateway, arguments: str, sent: dict[str, Any]
) -> None:
    body = f"""
from datetime import datetime, timedelta, timezone
async def main(session):
    async for turn in session.turns():
        await turn.limited({arguments})
"""
    code, stderr = await one_shot(tmp_path, gateway, body)
    assert code == 1
    (metadata,) = gateway.bodies("/metadata")
    limit = metadata["limit"]
    assert limit.items() >= sent.items()
    decoded = decode_provider_limit(encode_json(limit))
    assert decoded is not None
    assert decoded.resets_at == limit["resets_at"]
    reset = f"it resets at {limit['resets_at']}" if limit["resets_at"] else "the time of its reset is unknown"
    assert stderr == f"Error: the limit {limit['kind']} is reached; {reset}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ('""', 'ValueError: a limit has a kind, for example "five_hour"'),
        ("None", "TypeError: a limit's kind and message are of type str"),
        ('"k", message=None', "TypeError: a limit's kind and message are of type str"),
        ('"k", scope="all"', "ValueError: a limit's scope is credential or session, not 'all'"),
        ('"k", "2026-03-01"', "TypeError: resets_at is a datetime or Unix seconds, not '2026-03-01'"),
        ('"k", True', "TypeError: resets_at is a datetime or Unix seconds, not True"),
        ('"k", datetime(2026, 3, 1)', "ValueError: resets_at has no time zone: datetime.datetime(2026, 3, 1, 0, 0)"),
        (
            '"k", 1772377200000',
            "ValueError: resets_at is outside the years 1 to 9999: 1772377200000 (Unix time is in seconds)",
        ),
        ('"k", float("nan")', "ValueError: resets_at is outside the years 1 to 9999: nan (Unix time is in seconds)"),
        ('"k", float("inf")', "ValueError: resets_at is outside the years 1 to 9999: inf (Unix time is in seconds)"),
    ],
)
async def test_an_invalid_limit_is_an_error_in_the_executor_s_code(
    tmp_path: Path, gateway: RecordingGateway, arguments: str, error: str
) -> None:
    body = f"""
from datetime import datetime
async def main(session):
    async for turn in session.turns():
        await turn.limited({arguments})
"""
    code, stderr = await one_shot(tmp_path, gateway, body)
    assert (code, stderr.splitlines()[-1]) == (1, f"Error: {error}")
    assert f"    await turn.limited({arguments})" in stderr
    assert "fsm_executor/" not in stderr
    assert gateway.calls == []


@pytest.mark.parametrize("first", ['complete("done")', 'limited("five_hour")'])
@pytest.mark.parametrize("second", ['complete("done")', 'limited("five_hour")'])
async def test_a_turn_ends_once(tmp_path: Path, gateway: RecordingGateway, first: str, second: str) -> None:
    body = f"""
async def main(session):
    async for turn in session.turns():
        await turn.{first}
        await turn.{second}
"""
    async with executor(python_executor(tmp_path / "test", body), gateway) as process:
        await process.send(invocation())
        code, stderr = await process.ended()
    assert (code, stderr.splitlines()[-1]) == (1, "Error: RuntimeError: the turn is already completed")
