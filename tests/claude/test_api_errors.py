"""Requests that the API refuses, delays or never answers, and the resulting error of the run."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.claude import RETRIES, claude
from tests.support.fifo import Fifo
from tests.support.logs import log_lines
from tests.support.messages_api import Calls, Fails, Hangs, Held

NOTICE_S = 0.3
API_TIMEOUT_S = 1.0
RUN_TIMEOUT_S = 4.0
WITH_KEY = {"CLAUDE_CODE_OAUTH_TOKEN": "", "ANTHROPIC_API_KEY": "sk-ant-test"}
DEFAULT_RETRIES = {"CLAUDE_CODE_MAX_RETRIES": "10"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "the API does not accept CLAUDE_CODE_OAUTH_TOKEN; `claude setup-token` makes a new one (HTTP 401)"),
        (WITH_KEY, "the API does not accept ANTHROPIC_API_KEY; set it to a valid key (HTTP 401)"),
    ],
    ids=["token", "key"],
)
async def test_rejected_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    """The program alone would send the request eleven times in three minutes."""
    async with claude(tmp_path, monkeypatch, variables={**variables, **DEFAULT_RETRIES}) as bench:
        bench.api.otherwise = Fails(401, "authentication_error", "invalid")
        run = await bench.start()
        assert await bench.fails(run) == f"Error: {said} (exit code 1 before its turn was complete)"
        assert "result" not in bench.reported(run)
        assert len(bench.api.asked) == 2


async def test_a_request_that_is_forbidden_names_the_credential_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's settings provide a key, which the program prefers to the runner's token."""
    config = {"setting_sources": ["project"]}
    async with claude(tmp_path, monkeypatch, config=config, variables=DEFAULT_RETRIES) as bench:
        bench.write_settings({"env": {"ANTHROPIC_API_KEY": "sk-ant-of-the-project"}})
        bench.api.otherwise = Fails(403, "permission_error", "not for you")
        error = await bench.fails(await bench.start())
        assert len(bench.api.asked) == 1
    assert "not for you" in error
    assert "(HTTP 403: the API, or a proxy in front of it, refuses the request with ANTHROPIC_API_KEY;" in error
    assert "CLAUDE_CODE_OAUTH_TOKEN" not in error


async def test_retries_on_overload_are_reported_and_then_the_run_fails(
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


async def test_the_run_time_limit_ends_a_run_whose_api_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, run_timeout_s=RUN_TIMEOUT_S) as bench:
        bench.api.otherwise = Hangs()
        run = await bench.start()
        await bench.api.was_asked(1)
        error = await bench.fails(run)
    assert f"time limit of {RUN_TIMEOUT_S:g} s" in error


async def test_a_turn_without_progress_reports_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Fifo(tmp_path / "go") as go,
        claude(tmp_path, monkeypatch, config={"stall_notice_s": NOTICE_S}) as bench,
    ):
        go_on = asyncio.Event()
        bench.api.will(Held(go_on, Calls("Bash", {"command": f"read line < {go.path}"})))
        run = await bench.start()
        await bench.has_detail(run, f"no progress for {NOTICE_S:g} s: the turn waits for the API")
        await bench.has_detail(run, f"no progress for {2 * NOTICE_S:g} s: the turn waits for the API")
        go_on.set()
        await bench.has_detail(run, f"no progress for {NOTICE_S:g} s: the turn waits for Bash")
        go.write_line()
        assert await bench.completes(run) == "ok"


async def test_a_request_without_a_response_is_repeated_after_api_timeout_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch, config={"api_timeout_s": API_TIMEOUT_S}) as bench:
        bench.api.will(Hangs())
        run = await bench.start()
        assert await bench.completes(run) == "ok"
        detail = bench.details(run)[0]
    assert detail.startswith("the API cannot be reached; retry 1 of")
