"""A runner with a limit for outages of its coordinator (`--exit-after-outage`)."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from fsm_runner.app import build
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_FAILED, EXIT_OK
from fsm_runner.runtime.control.outage import OutageTimer
from tests.support import faults
from tests.support.home import PROFILE, make_home
from tests.support.program import environment, program
from tests.support.proxy import POLL, TERMINAL_REPORT, FaultProxy
from tests.support.runner import open_system, waiter
from tests.support.virtual_time import in_virtual_time

REGISTER = "/runner/register"
FORGETS_SOON = Timings(heartbeat_interval_s=0.1, poll_timeout_s=1, stale_after_s=0.5)
STOP_LIMIT_S = 0.2
FAILED_POLLS = 5
LIMIT_S = 10.0
UNKNOWN_URL = "http://127.0.0.1:9"


def cut_off(proxy: FaultProxy) -> None:
    """Every call from now on is reset."""
    for method in ("GET", "POST", "DELETE"):
        proxy.fault(method, ".*", faults.reset(), times=None)


def kept_messages(state_dir: Path) -> int:
    (journal,) = state_dir.glob("*/journal.sqlite")
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        count: int = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
        return count
    finally:
        connection.close()


async def test_what_was_not_reported_is_reported_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "STOP_LIMIT_S", STOP_LIMIT_S)
    home, state_dir = make_home(tmp_path / "home"), tmp_path / "state"
    async with open_system(tmp_path, FORGETS_SOON) as system, waiter(tmp_path) as command:
        async with system.running(home, exit_after_outage_s=1.0, state_dir=state_dir) as runner:
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            cut_off(system.proxy)
            command.gate.write_line("before the end")
            await system.state(run, "reporting")
            assert await runner.ended() == "gave_up"
            assert runner.path[-5:] == ["draining", "stopping_runs", "flushing_reports", "deregistering", "gave_up"]
        assert kept_messages(state_dir) > 0
        assert system.proxy.acknowledged("POST", TERMINAL_REPORT) == []
        system.proxy.heal()
        async with system.running(home, state_dir=state_dir):
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
            await system.completes()
        assert system.reports(run).count("completed") == 1
        assert await system.result(run) == {"heard": "before the end"}
        assert kept_messages(state_dir) == 0


async def test_a_run_at_work_is_stopped_and_its_end_is_reported_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "STOP_LIMIT_S", STOP_LIMIT_S)
    home, state_dir = make_home(tmp_path / "home"), tmp_path / "state"
    async with open_system(tmp_path, FORGETS_SOON) as system, waiter(tmp_path) as command:
        async with system.running(home, exit_after_outage_s=1.0, state_dir=state_dir) as runner:
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/started")
            cut_off(system.proxy)
            assert await runner.ended() == "gave_up"
        system.proxy.heal()
        async with system.running(home, state_dir=state_dir):
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/stopped")
        assert len(system.proxy.acknowledged("POST", TERMINAL_REPORT)) == 1


async def test_it_leaves_with_the_exit_code_of_a_failure(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with open_system(tmp_path) as system:
        arguments = ("-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(tmp_path / "state"))
        env = environment(tmp_path / "home")
        async with program(tmp_path, env, *arguments, "--exit-after-outage", "1") as runner:
            await system.proxy.answered("POST", REGISTER)
            cut_off(system.proxy)
            assert await runner.exit_code() == EXIT_FAILED
            said = await runner.said("outage_too_long")
            assert "the coordinator has not answered for 1 s" in said
            assert "→ gave_up" in runner.lines[-1]


async def test_a_coordinator_that_was_never_there_counts_too(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    arguments = ("-x", PROFILE, "-c", UNKNOWN_URL, "--state-dir", str(tmp_path / "state"), "--exit-after-outage", "1")
    async with program(tmp_path, environment(tmp_path / "home"), *arguments) as runner:
        assert await runner.exit_code() == EXIT_FAILED
        await runner.said("→ gave_up")


@in_virtual_time
async def test_an_answer_ends_the_outage() -> None:
    said: list[str] = []

    async def no_answer() -> bool:
        return False

    timer = OutageTimer(LIMIT_S, said.append)
    running = asyncio.create_task(timer.run(no_answer))
    for _ in range(3):
        timer.unanswered()
        await asyncio.sleep(0.6 * LIMIT_S)
        timer.unanswered()
        timer.answered()
    assert said == []
    timer.unanswered()
    await asyncio.sleep(1.1 * LIMIT_S)
    assert said == ["the coordinator has not answered for 10 s"]
    running.cancel()


async def test_a_proxy_that_cuts_polls_does_not_end_a_runner_whose_heartbeats_are_answered(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    async with open_system(tmp_path) as system, waiter(tmp_path) as command:
        system.proxy.fault("GET", POLL, faults.cut_after(0.2), times=None)
        async with system.running(home, exit_after_outage_s=0.5, heartbeat_interval_s=1000) as runner:
            await system.proxy.seen("GET", POLL, FAILED_POLLS)
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            command.gate.write_line()
            assert (await system.end(run)).status == "completed"
            assert "disconnected" not in runner.path
            assert "draining" not in runner.path


async def test_without_the_flag_it_stays(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with open_system(tmp_path, FORGETS_SOON) as system:
        arguments = ("-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(tmp_path / "state"))
        async with program(tmp_path, environment(tmp_path / "home"), *arguments) as runner:
            await system.proxy.answered("POST", REGISTER)
            cut_off(system.proxy)
            await system.proxy.seen("GET", POLL, FAILED_POLLS)
            assert runner.process.returncode is None
            system.proxy.heal()
            run = await system.submit("say", text="still here")
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
