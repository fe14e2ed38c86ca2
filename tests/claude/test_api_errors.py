"""What the API refuses, puts off or never answers, as a run's error."""

import re
import time
from pathlib import Path

import pytest

from tests.support.claude import RETRIES, claude
from tests.support.logs import log_lines
from tests.support.messages_api import Fails, Hangs

RUN_TIMEOUT_S = 4.0


async def test_credentials_that_are_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.otherwise = Fails(401, "authentication_error", "invalid bearer token")
        run = await bench.start()
        error = await bench.fails(run)
        assert "result" not in bench.told(run)
    assert "401" in error
    assert "CLAUDE_CODE_OAUTH_TOKEN" in error
    assert "claude setup-token" in error


async def test_a_limit_that_is_reached_is_said_with_the_time_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets_at = int(time.time()) + 3600
    limit = {
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": str(resets_at),
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
    }
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.otherwise = Fails(429, "rate_limit_error", "slow down", limit)
        error = await bench.fails(await bench.start())
        assert len(bench.api.asked) == 1
    assert "5-hour limit" in error
    assert time.strftime("resets at %Y-%m-%d %H:%M:%S UTC", time.gmtime(resets_at)) in error


async def test_an_overload_is_waited_for_in_sight_and_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log_lines() as lines:
        async with claude(tmp_path, monkeypatch) as bench:
            bench.api.otherwise = Fails(529, "overloaded_error", "Overloaded")
            run = await bench.start()
            error = await bench.fails(run)
            _, steps = bench.history(run)
            assert len(bench.api.asked) == 1 + int(RETRIES)
    assert "529" in error
    assert "Overloaded" in error
    details = [step for step in steps if step.event == "detail"]
    assert {(step.source, step.target) for step in details} == {("executing", "executing")}
    said = [re.sub(r"[\d.]+ s$", "… s", step.reason) for step in details]
    assert said == [f"the API answers with HTTP 529; retry {number} of {RETRIES} in … s" for number in (1, 2)]
    assert all(any(f"{run.run_id}: executing: {step.reason}" in line for line in lines) for step in details)


async def test_an_overload_that_passes_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Fails(529, "overloaded_error", "Overloaded"))
        assert await bench.completes(await bench.start()) == "ok"


async def test_an_api_that_hangs_is_ended_by_the_runs_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch, run_timeout_s=RUN_TIMEOUT_S) as bench:
        bench.api.otherwise = Hangs()
        run = await bench.start()
        await bench.api.was_asked(1)
        error = await bench.fails(run)
    assert f"time limit of {RUN_TIMEOUT_S:g} s" in error
