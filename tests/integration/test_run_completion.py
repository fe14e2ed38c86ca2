"""Runs that end by themselves: their results, and the order of their reports."""

import asyncio
import itertools
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support.home import make_home
from tests.support.proxy import REPORT
from tests.support.runner import System, open_system, running

RUNS = 200
FLOOD_BYTES = 100_000_000
MEMORY_BOUND_BYTES = 150_000_000


async def test_two_hundred_runs_at_once_complete_each_with_its_own_result(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        runs = await asyncio.gather(*(system.submit("say", text=f"number {number}") for number in range(RUNS)))
        for number, run in enumerate(runs):
            assert (await system.end(run)).status == "completed"
            assert await system.result(run) == {"said": f"number {number}"}
            assert system.reports(run) == ["started", "completed"]


@pytest.mark.parametrize(
    ("agent", "parameters", "config", "report", "result"),
    [
        ("say", {"text": "hello"}, {}, "completed", {"said": "hello"}),
        ("no-object", {}, {}, "completed", {"return_code": 0, "stdout": "plain text", "stderr": ""}),
        ("fail", {"code": 7}, {}, "failed", {"return_code": 7, "stdout": "on stdout", "stderr": "it broke"}),
        ("hang", {}, {"timeout": 0.3}, "failed", {"return_code": 124, "stdout": "", "stderr": ""}),
    ],
    ids=["success", "plain text", "exit code", "time limit"],
)
async def test_the_result_is_on_the_session_before_the_run_is_reported(
    tmp_path: Path, agent: str, parameters: dict[str, Any], config: dict[str, Any], report: str, result: dict[str, Any]
) -> None:
    async with open_system(tmp_path) as system, system.running(make_home(tmp_path / "home", config=config)):
        run = await system.submit(agent, **parameters)
        ended = await system.end(run)
        assert ended.status == report
        assert _told(system, run) == ["started", "bind", "events", report]
        event = system.proxy.calls_for("POST", f"/sessions/{run.session_id}/events")[0].json
        assert event["event_type"] == "result"
        assert event["result_data"] == result
        assert event.get("result_text") is None


async def test_a_command_that_fails_is_reported_with_its_stderr(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        assert (await system.end(await system.submit("fail", code=3))).error == (
            "it broke\n--- stdout ---\non stdout\n(exit code 3)"
        )


async def test_the_time_limit_of_a_command_is_named_in_its_report(tmp_path: Path) -> None:
    async with open_system(tmp_path) as system, system.running(make_home(tmp_path / "home", config={"timeout": 0.3})):
        error = (await system.end(await system.submit("hang"))).error
        assert error is not None
        assert "time limit of 0.3 s" in error


async def test_the_time_limit_of_a_runner_is_named_in_the_report(tmp_path: Path) -> None:
    async with running(tmp_path, run_timeout_s=0.3) as (system, _):
        run = await system.submit("hang")
        ended = await system.end(run)
        assert ended.status == "failed"
        assert "time limit of 0.3 s" in (ended.error or "")
        assert system.reports(run)[-1] == "failed"


async def test_each_message_of_a_run_waits_for_the_answer_to_the_one_before(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        run = await system.completes()
        calls = [call for call in system.proxy.calls if run.run_id in call.path or run.session_id in call.path]
        for earlier, later in itertools.pairwise(calls):
            assert earlier.answered_at is not None
            assert earlier.answered_at < later.begun_at


async def test_a_hundred_megabytes_on_both_outputs_neither_block_nor_fill_memory(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        await system.completes()
        before = _most_memory_bytes()
        run = await system.submit("flood", bytes=FLOOD_BYTES)
        assert (await system.end(run)).status == "completed"
        result = await system.result(run)
        assert result is not None
        for stream, letter in (("stdout", "x"), ("stderr", "y")):
            assert result[stream].startswith(letter)
            assert result[stream].endswith(letter)
            assert "bytes left out" in result[stream]
        assert _most_memory_bytes() - before < MEMORY_BOUND_BYTES


async def test_output_that_grows_in_json_still_becomes_a_result(tmp_path: Path) -> None:
    """Each NUL is six bytes in JSON."""
    async with running(tmp_path) as (system, _):
        run = await system.submit("write-nul", bytes=4_000_000)
        assert (await system.end(run)).status == "completed"
        assert system.proxy.calls_for("POST", f"/sessions/{run.session_id}/events")[0].acknowledged


@pytest.mark.parametrize("key", ["", "--help", "a=b", "a b", "a\nb"])
async def test_a_key_that_can_be_no_option_fails_the_run_and_is_named(tmp_path: Path, key: str) -> None:
    async with running(tmp_path) as (system, _):
        run = await system.submit("say", **{key: "value"})
        ended = await system.end(run)
        assert ended.status == "failed"
        assert "parameter" in (ended.error or "")
        assert "name" in (ended.error or "")
        await system.completes()


async def test_a_missing_directory_fails_the_run_and_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        missing = str(tmp_path / "not there")
        run = await system.submit_in(missing, "say", text="x")
        ended = await system.end(run)
        assert ended.status == "failed"
        assert missing in (ended.error or "")
        assert system.reports(run) == ["failed"]


async def test_a_run_works_in_the_directory_that_it_names(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        named = tmp_path / "elsewhere"
        named.mkdir()
        run = await system.submit_in(str(named), "say-where")
        assert (await system.end(run)).status == "completed"
        assert await system.result(run) == {"directory": str(named.resolve())}


def _told(system: System, run: RunCreated) -> list[str]:
    about = f"({REPORT}|/sessions/{run.session_id}/)([a-z]+)"
    return [call.path.rsplit("/")[-1] for call in system.proxy.acknowledged("POST", about)]


def _most_memory_bytes() -> int:
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
