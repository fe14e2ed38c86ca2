"""Many runs at once, and a poll that never waits for any of them."""

import asyncio
from pathlib import Path

import pytest

from fsm_runner.runtime.control.descriptors import DescriptorWatch
from tests.support import faults
from tests.support.command_executor import held_by, scripted_bench
from tests.support.home import make_home
from tests.support.proxy import POLL, REPORT
from tests.support.runner import running, waiter
from tests.support.scripts import script_bench


async def test_a_full_runner_claims_the_next_run_when_one_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path, max_runs=1) as (system, _), waiter(tmp_path) as command:
        first = await system.submit("wait", **command.parameters)
        await command.started.pid()
        second = await system.submit("say", text="second")
        assert (await system.api.run(second.run_id)).status == "pending"
        command.gate.write_line()
        assert (await system.end(second)).status == "completed"
        assert (await system.end(first)).status == "completed"
        (end_of_first,) = system.proxy.acknowledged("POST", f"/runner/runs/{first.run_id}/completed")
        (start_of_second,) = system.proxy.calls_for("POST", f"/runner/runs/{second.run_id}/started")
        assert end_of_first.answered_at is not None
        assert end_of_first.answered_at < start_of_second.begun_at


async def test_a_full_runner_holds_no_poll_and_hears_of_a_stop_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, max_runs=1) as (system, _), waiter(tmp_path) as command:
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        # Before that, `started` would overwrite the stop at the coordinator (protocol.md, section 1.1).
        await system.proxy.answered("POST", REPORT + "started")
        await system.api.stop_run(run.run_id)
        assert (await system.end(run)).status == "stopped"
        polls = system.proxy.calls_for("GET", POLL)
        (stopped,) = system.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/stopped")
        assert all(poll.answered_at is not None for poll in polls if poll.begun_at < stopped.begun_at)
        await system.completes()


async def test_max_runs_are_held_at_once_and_no_more(tmp_path: Path) -> None:
    async with (
        running(tmp_path, max_runs=2) as (system, _),
        waiter(tmp_path, "one") as one,
        waiter(tmp_path, "two") as two,
    ):
        runs = [await system.submit("wait", **each.parameters) for each in (one, two)]
        await one.started.pid()
        await two.started.pid()
        third = await system.submit("say", text="third")
        two.gate.write_line()
        assert (await system.end(third)).status == "completed"
        one.gate.write_line()
        for run in runs:
            assert (await system.end(run)).status == "completed"


async def test_the_poll_does_not_wait_for_a_slow_run(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        slow = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.completes()
        assert system.states[slow.run_id][-1] == "executing"
        command.gate.write_line()
        await system.end(slow)


async def test_the_poll_does_not_wait_for_a_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        stubborn = await system.submit("ignore-sigterm", **command.parameters)
        await command.started.pid()
        await system.api.stop_run(stubborn.run_id)
        await system.state(stubborn, "stopping")
        await system.completes()
        assert system.states[stubborn.run_id][-1] == "stopping"
        command.gate.write_line()
        assert (await system.end(stubborn)).status == "stopped"


async def test_the_poll_does_not_wait_for_a_script(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with script_bench(tmp_path, {"tidy": "echo '{}'"}) as system:
        system.proxy.fault("GET", "/scripts/tidy/download", faults.hold(released))
        async with system.running(make_home(tmp_path / "home")):
            await system.proxy.seen("GET", "/scripts/tidy/download")
            await system.completes()
            released.set()


async def test_the_poll_does_not_wait_for_a_report(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", REPORT + "started", faults.hold_request(released))
        first = await system.submit("say", text="first")
        await system.proxy.seen("POST", REPORT + "started")
        await system.completes()
        assert (await system.api.run(first.run_id)).status == "claimed"
        released.set()
        assert (await system.end(first)).status == "completed"


async def test_turns_of_live_sessions_go_on_side_by_side_while_descriptors_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_bench(tmp_path) as at, waiter(tmp_path, "one") as one, waiter(tmp_path, "two") as two:
        sessions = [await at.start(), await at.start()]
        for session in sessions:
            await at.completes(session)
        monkeypatch.setattr(DescriptorWatch, "has_room", False)
        turns = [
            await at.resume(session, *held_by(command)) for session, command in zip(sessions, (one, two), strict=True)
        ]
        for command in (one, two):
            await command.started.pid()
        refused = await at.fails(await at.start())
        assert "too few file descriptors for another executor, since 2 persistent executors are alive: " in refused
        for command in (one, two):
            command.gate.write_line()
        for turn in turns:
            await at.completes(turn)
        assert at.runner.path[-1] == "saturated"


async def test_a_stuck_journal_and_a_shortage_of_descriptors_at_once(tmp_path: Path) -> None:
    """Neither forgets the other, also while the coordinator is away or has forgotten the runner."""
    async with running(tmp_path) as (system, runner):
        actor = runner.actor
        journal, descriptors = actor._journal, actor._runs.descriptors

        def short() -> None:
            descriptors._short_at_s = asyncio.get_running_loop().time()
            descriptors._on_short("few are left")

        def freed() -> None:
            descriptors._short_at_s = None
            descriptors._on_freed()

        system.proxy.fault("GET", POLL, faults.reset(), times=None)
        await runner.goes_through("disconnected")
        short()
        await runner.goes_through("disconnected", "saturated")
        system.proxy.heal()
        journal._change("full disk")
        actor.post("registration_lost")
        await runner.goes_through("saturated", "suspended", "registering", "suspended")
        journal._change(None)
        await runner.goes_through("suspended", "registering", "suspended", "saturated")
        actor.post("registration_lost")
        await runner.goes_through("suspended", "saturated", "registering", "saturated")
        pending = await system.submit("say", text="later")
        freed()
        assert (await system.end(pending)).status == "completed"
        assert runner.path[-1] == "online"
        short()
        await runner.goes_through("online", "saturated", "registering", "saturated", "online", "saturated")
        assert await runner.drain() == "stopped"
