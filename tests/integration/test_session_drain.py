"""The end of a runner that has live executors."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_ABORTED, EXIT_OK
from tests.support.command_executor import AGENT, PROFILE, SESSION_STATUS, command_home, held_by, scripted_bench
from tests.support.processes import gone
from tests.support.program import Program, environment, program
from tests.support.proxy import POLL
from tests.support.runner import System, open_system, waiter
from tests.support.watch import AT_ONCE_S

LONG_S = 600.0


async def test_an_idle_executor_ends_and_is_reported_before_the_runner_leaves(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, grace_period_s=LONG_S) as at_work:
        runs = [await at_work.start(["bind"], ["report"]) for _ in range(3)]
        pids = [(await at_work.completes(run))["pid"] for run in runs]
        assert await at_work.runner.drain() == "stopped"
        for pid in pids:
            await gone(pid)
        (left,) = at_work.proxy.acknowledged("DELETE", "/runners/.*")
        ends = at_work.proxy.acknowledged("POST", SESSION_STATUS)
        assert [call.json["status"] for call in ends] == ["finished"] * 3
        assert all((call.answered_at or 0) < left.begun_at for call in ends)
        assert [await at_work.session(run) for run in runs] == ["finished"] * 3


async def test_a_turn_at_work_may_end_within_the_grace_period(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, grace_period_s=LONG_S) as at_work, waiter(tmp_path) as held:
        run = await at_work.start(["bind"], *held_by(held), ["report"])
        pid = await held.started.pid()
        at_work.runner.actor.post("drain_requested", "the test")
        await at_work.runner.goes_through("draining")
        held.gate.write_line()
        assert await at_work.runner.ended() == "stopped"
        await gone(pid)
        assert (await at_work.completes(run))["pid"] == pid
        assert at_work.accepted_messages(run) == ["started", "bind", "events", "completed", "status"]
        assert await at_work.session(run) == "finished"


async def test_a_turn_at_work_is_stopped_after_the_grace_period(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, grace_period_s=0.2) as at_work, waiter(tmp_path) as held:
        run = await at_work.start(["bind"], ["tell_pid", str(held.started.path)], ["silent"])
        pid = await held.started.pid()
        assert await at_work.runner.drain() == "stopped"
        await gone(pid)
        assert (await at_work.end(run)).status == "stopped"
        assert at_work.accepted_messages(run) == ["started", "bind", "stopped"]
        assert at_work.signal(run) == "shutdown"


async def test_an_idle_executor_ends_while_another_one_has_its_grace_period(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, grace_period_s=LONG_S) as at_work, waiter(tmp_path) as held:
        busy = await at_work.start(["bind"], *held_by(held))
        await held.started.pid()
        idle = await at_work.start(["bind"], ["report"])
        pid = (await at_work.completes(idle))["pid"]
        at_work.runner.actor.post("drain_requested", "the test")
        assert await at_work.session_ended() == "finished"
        await gone(pid)
        assert (await at_work.system.api.run(busy.run_id)).status == "running"
        held.gate.write_line()
        assert await at_work.runner.ended() == "stopped"
        await at_work.completes(busy)


@asynccontextmanager
async def runner_process(folder: Path) -> AsyncIterator[tuple[System, Program]]:
    """A coordinator here, a runner in a process of its own that holds a poll."""
    command_home(folder / "home")
    async with open_system(folder, Timings(poll_timeout_s=LONG_S)) as system:
        arguments = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--grace-period", f"{LONG_S:g}")
        async with program(folder, environment(folder / "home"), *arguments) as runner:
            await system.proxy.seen("GET", POLL)
            yield system, runner


async def test_a_runner_with_an_idle_executor_ends_quickly(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner), waiter(tmp_path) as held:
        run = await system.submit(AGENT, steps=[["bind"], ["tell_pid", str(held.started.path)]])
        pid = await held.started.pid()
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
        began = time.monotonic()
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert time.monotonic() - began < AT_ONCE_S
        await gone(pid)
        assert await system.api.session_status(run.session_id) == "finished"
        assert await system.runners() == []
        assert not [line for line in runner.lines if "Traceback" in line]


async def test_a_runner_that_gets_three_signals_leaves_no_executor(tmp_path: Path) -> None:
    async with (
        runner_process(tmp_path) as (system, runner),
        waiter(tmp_path, "one") as idle,
        waiter(tmp_path, "other") as busy,
    ):
        ignore = [["bind"], ["ignore_shutdown"], ["ignore_sigterm"]]
        await system.submit(
            AGENT, steps=[*ignore, ["spawn", str(idle.started.path)], ["tell_pid", str(idle.started.path)]]
        )
        await system.submit(AGENT, steps=[*ignore, *held_by(busy)])
        pids = await idle.started.pid(), await idle.started.pid(), await busy.started.pid()
        runner.terminate()
        await runner.said("→ draining")
        runner.terminate()
        await runner.said("→ stopping_runs")
        runner.terminate()
        assert await runner.exit_code() == EXIT_ABORTED
        for pid in pids:
            await gone(pid)
        assert not [line for line in runner.lines if "Traceback" in line]
