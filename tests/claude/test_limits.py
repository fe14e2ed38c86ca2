"""Limits of the provider: the real program meets them, the run waits, and its session continues."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support.claude import ClaudeBench, claude
from tests.support.fifo import Fifo
from tests.support.messages_api import Calls, Fails, Hangs, Held, Says, limit_headers, reached_limit
from tests.support.processes import gone, with_environment

HOUR_S = 3600
YEAR_S = 365 * 24 * HOUR_S
CONTINUE = "Please continue."
KEYS = {"provider_limits": {"prompt": CONTINUE}}
WITH_KEY = {"CLAUDE_CODE_OAUTH_TOKEN": "", "ANTHROPIC_API_KEY": "sk-ant-test"}


def in_s(seconds: float) -> int:
    return int(time.time() + seconds)


def time_text(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def executors(run: RunCreated) -> list[int]:
    return with_environment(f"AGENT_SESSION_ID={run.session_id}")


def conversations(bench: ClaudeBench) -> set[str]:
    return {asked.headers["x-claude-code-session-id"] for asked in bench.api.asked}


async def stop(bench: ClaudeBench, run: RunCreated) -> None:
    await bench.system.api.stop_run(run.run_id)
    assert (await bench.system.end(run)).status == "stopped"


async def test_a_run_waits_for_the_reset_and_continues_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch, keys=KEYS) as bench:
        resets_at = in_s(3)
        bench.api.will(Calls("Bash", {"command": "echo one"}), reached_limit(resets_at), Says("It is done."))
        run = await bench.start("first")
        await bench.has_detail(run, f"the usage limit five_hour is reached; it resets at {time_text(resets_at)}")
        await bench.system.state(run, "waiting_for_limit")
        processes = executors(run)
        assert await bench.completes(run) == "It is done."
        assert time.time() >= resets_at
        assert executors(run) == processes
        reported, session = bench.reported(run), await bench.session(run)
    # The journal is complete.
    states, usage = [step.target for step in bench.history(run)[1] if step.event != "detail"], bench.usage(run)
    assert len(bench.api.asked) == 3
    assert bench.api.asked[-1].prompts == ["first", CONTINUE]
    assert [each["content"] for each in bench.api.asked[-1].tool_results] == ["one"]
    assert len(conversations(bench)) == 1
    assert states.index("waiting_for_limit") < states.index("completed")
    assert (reported.count("started"), reported.count("result"), reported.count("completed")) == (1, 1, 1)
    assert session.get("limit") is None
    assert usage.turns == 2


async def test_runs_of_one_credential_send_one_request_before_the_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch, keys=KEYS) as bench:
        resets_at = in_s(4)
        bench.api.will(reached_limit(resets_at))
        first = await bench.start("first")
        await bench.system.state(first, "waiting_for_limit")
        others = [await bench.start(f"other {number}") for number in range(3)]
        for run in (first, *others):
            assert await bench.completes(run) == "ok"
    assert [asked.asked_at_s < resets_at for asked in bench.api.asked] == [True] + [False] * 4
    assert [text.strip() for text in bench.api.asked[1].prompts] == ["first", CONTINUE]


@pytest.mark.parametrize(
    ("lifecycle", "overrides"),
    [("one_shot", {}), ("persistent", {"session_idle_timeout_s": 0.2})],
    ids=["one_shot", "idle"],
)
async def test_a_new_process_continues_the_session_after_the_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifecycle: str, overrides: dict[str, Any]
) -> None:
    async with claude(tmp_path, monkeypatch, lifecycle, keys=KEYS, **overrides) as bench:
        bench.api.will(Calls("Bash", {"command": "echo one"}), reached_limit(in_s(3)), Says("It is done."))
        run = await bench.start("first")
        await bench.system.state(run, "waiting_for_limit")
        for process in executors(run):
            await gone(process)
        assert await bench.completes(run) == "It is done."
        reported = bench.reported(run)
    assert [text.strip() for text in bench.api.asked[-1].prompts] == ["first", CONTINUE]
    assert len(conversations(bench)) == 1
    assert (reported.count("result"), reported.count("completed")) == (1, 1)


async def test_the_same_limit_twice_is_known_with_its_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program reports each change of a limit once."""
    async with claude(tmp_path, monkeypatch, keys=KEYS) as bench:
        first, second = in_s(3), in_s(HOUR_S)
        bench.api.will(reached_limit(first))
        bench.api.otherwise = reached_limit(second)
        run = await bench.start("first")
        waiting = f"the limit five_hour is reached; it resets at {time_text(second)}"
        await bench.has_detail(run, waiting, "waiting for limit")
        await stop(bench, run)
    assert len(bench.api.asked) == 2


async def test_a_stop_takes_effect_during_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.otherwise = reached_limit(in_s(HOUR_S))
        run = await bench.start()
        await bench.system.state(run, "waiting_for_limit")
        (executor,) = executors(run)
        await stop(bench, run)
        await gone(executor)
        assert len(bench.api.asked) == 1


async def test_a_reset_in_a_year_fails_the_run_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resets_at = in_s(YEAR_S)
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.otherwise = reached_limit(resets_at, "seven_day")
        run = await bench.start()
        error = await bench.fails(run)
        limit = (await bench.session(run))["limit"]
    assert f"the limit seven_day is reached; it resets at {time_text(resets_at)}" in error
    assert (limit["kind"], limit["message"]) == ("seven_day", "You've hit your weekly limit")


@pytest.mark.parametrize(
    ("variables", "reply", "requests"),
    [
        ({}, reached_limit("soon"), 1),
        # The program does not repeat the request, and hides the time.
        (WITH_KEY, Fails(429, "rate_limit_error", "slow down", {"retry-after": "120"}), 1),
        # It ignores these headers, and repeats the request until its retries are used up.
        (WITH_KEY, reached_limit(in_s(HOUR_S)), 3),
        ({}, Fails(429, "rate_limit_error", "slow down"), 3),
    ],
    ids=["malformed", "late", "key", "plain"],
)
async def test_a_limit_with_an_unknown_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], reply: Fails, requests: int
) -> None:
    async with claude(tmp_path, monkeypatch, variables=variables) as bench:
        bench.api.will(*[reply] * requests)
        run = await bench.start()
        await bench.system.state(run, "waiting_for_limit")
        assert len(bench.api.asked) == requests
        await stop(bench, run)
        waiting = next(detail for detail in bench.details(run) if detail.startswith("the limit "))
    assert "; the time of its reset is unknown; next attempt at " in waiting


async def test_a_retry_that_is_far_away_ends_the_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program would wait itself, and its run would hold its slot."""
    async with claude(tmp_path, monkeypatch, variables=WITH_KEY) as bench:
        bench.api.otherwise = Fails(429, "rate_limit_error", "slow down", {"retry-after": "45"})
        run = await bench.start()
        await bench.system.state(run, "waiting_for_limit")
        await stop(bench, run)
        waiting = next(detail for detail in bench.details(run) if detail.startswith("the limit "))
    assert waiting.startswith("the limit rate_limit is reached; it resets at ")
    assert len(bench.api.asked) == 1


async def test_a_limit_that_the_program_overcomes_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paid = limit_headers("rejected", in_s(HOUR_S), overage_status="allowed")
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(
            Fails(429, "rate_limit_error", "slow down", {"retry-after": "1"}),
            Calls("Bash", {"command": "true"}, headers=paid),
            Says("It is done.", paid),
        )
        run = await bench.start()
        assert await bench.completes(run) == "It is done."
        assert "waiting_for_limit" not in bench.system.states[run.run_id]
        assert any("five_hour is reached" in detail for detail in bench.details(run))


async def test_other_failures_are_no_limits_even_if_one_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = limit_headers("rejected", in_s(HOUR_S), overage_status="allowed")
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Calls("Bash", {"command": "true"}, headers=paid))
        bench.api.otherwise = Fails(400, "invalid_request_error", "there is something wrong with it")
        error = await bench.fails(await bench.start())
    assert "there is something wrong with it" in error
    assert "resets at" not in error


async def test_a_limit_that_is_close_is_a_status_detail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resets_at = in_s(HOUR_S)
    used = {"5h-utilization": "0.93", "5h-reset": str(resets_at), "5h-surpassed-threshold": "0.9"}
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Says("ok", limit_headers("allowed_warning", resets_at, **used)))
        run = await bench.start()
        assert await bench.completes(run) == "ok"
        expected = f"93% of the usage limit five_hour is used; it resets at {time_text(resets_at)}"
        assert bench.details(run) == [expected]


async def test_background_work_ends_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the program would start a turn when that work ends, while the run waits."""
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch) as bench:
        command, is_running = f"echo $$ > {started.path}; sleep 1000", asyncio.Event()
        build = Calls("Bash", {"command": command, "run_in_background": True, "description": "the build"})
        bench.api.will(build, Held(is_running, reached_limit(in_s(HOUR_S))))
        bench.api.otherwise = reached_limit(in_s(HOUR_S))
        run = await bench.start()
        command_pid = await started.pid()
        is_running.set()
        await bench.system.state(run, "waiting_for_limit")
        await gone(command_pid)
        await stop(bench, run)
        expected = "background work is stopped because a limit of the provider is reached: the build"
        assert expected in bench.details(run)


async def test_a_limit_of_a_subagent_that_the_model_survives_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        agent = {"description": "look it up", "prompt": "find it", "subagent_type": "general-purpose"}
        bench.api.will(Calls("Agent", agent), Says("The agent is running."), Says("The agent has failed."))
        bench.api.subagents.append(reached_limit(in_s(HOUR_S)))
        run = await bench.start()
        assert await bench.completes(run) == "The agent has failed."


async def test_subagents_end_at_a_limit_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        agent = {"description": "look it up", "prompt": "find it", "subagent_type": "general-purpose"}
        bench.api.will(Calls("Agent", agent), reached_limit(in_s(HOUR_S)))
        bench.api.subagents.append(Hangs())
        bench.api.otherwise = reached_limit(in_s(HOUR_S))
        run = await bench.start()
        await bench.system.state(run, "waiting_for_limit")
        await stop(bench, run)
        assert any(detail.endswith("limit of the provider is reached: look it up") for detail in bench.details(run))
