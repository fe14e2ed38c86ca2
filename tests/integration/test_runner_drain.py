"""The end of a real runner process by signals. Each further signal asks for more haste."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_ABORTED, EXIT_OK
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.actors.runner import RunnerActor
from tests.support import faults
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import Program, environment, program
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT
from tests.support.runner import System, open_system, waiter
from tests.support.watch import AT_ONCE_S, PATIENCE_S

LONG_S = "600"


@asynccontextmanager
async def runner_process(folder: Path, grace_period_s: str = LONG_S) -> AsyncIterator[tuple[System, Program]]:
    """A coordinator here, a runner in a process of its own that holds a poll."""
    make_home(folder / "home")
    async with open_system(folder, Timings(poll_timeout_s=600)) as system:
        arguments = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--grace-period", grace_period_s)
        async with program(folder, environment(folder / "home"), *arguments) as runner:
            await system.proxy.seen("GET", POLL)
            yield system, runner


async def test_a_runner_with_nothing_to_do_is_gone_at_once(tmp_path: Path) -> None:
    """Though its poll is held for ten minutes, and its runs would have ten."""
    async with runner_process(tmp_path) as (system, runner):
        began = time.monotonic()
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert time.monotonic() - began < AT_ONCE_S
        assert await system.runners() == []
        assert not [line for line in runner.lines if "Traceback" in line]
        assert [line for line in runner.lines if line.endswith("awaiting_last_poll → stopped: departed")]


async def test_a_terminal_that_is_closed_ends_a_runner_like_any_signal(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner):
        runner.hang_up()
        assert await runner.exit_code() == EXIT_OK
        assert await system.runners() == []


@pytest.mark.parametrize("moment", ["run first", "signal first", "run with the signal", "signal with the run"])
async def test_a_run_that_arrives_with_the_signal_has_an_outcome_or_is_untouched(tmp_path: Path, moment: str) -> None:
    async with runner_process(tmp_path) as (system, runner):
        if moment == "signal first":
            runner.terminate()
            run = await _submitted(system)
        elif moment == "run first":
            run = await _submitted(system)
            runner.terminate()
        else:
            submitting = asyncio.create_task(_submitted(system))
            if moment == "run with the signal":
                await asyncio.sleep(0)
            runner.terminate()
            run = await submitting
        assert await runner.exit_code() == EXIT_OK
        assert await system.runners() == []
        if run is not None:
            assert (await system.api.run(run.run_id)).status not in {"claimed", "running", "stopping"}


async def test_a_run_at_work_may_end_within_the_grace_period(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner), waiter(tmp_path) as command:
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        runner.terminate()
        await runner.said("draining")
        command.gate.write_line("in time")
        assert await runner.exit_code() == EXIT_OK
        assert (await system.api.run(run.run_id)).status == "completed"
        assert await system.result(run) == {"heard": "in time"}
        assert system.reports(run) == ["started", "completed"]
        assert await system.runners() == []


async def test_a_run_at_work_is_stopped_and_reported_after_the_grace_period(tmp_path: Path) -> None:
    async with runner_process(tmp_path, "0.3") as (system, runner), waiter(tmp_path) as command:
        run = await system.submit("leave-a-child", **command.parameters)
        grandchild = await command.started.pid()
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert (await system.api.run(run.run_id)).status == "stopped"
        assert system.reports(run) == ["started", "stopped"]
        await gone(grandchild)
        assert await system.runners() == []


async def test_a_run_is_not_claimed_by_a_runner_that_is_leaving(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner), waiter(tmp_path) as command:
        await system.submit("wait", **command.parameters)
        await command.started.pid()
        runner.terminate()
        await runner.said("draining")
        late = await system.submit("say", text="late")
        await system.proxy.wait_for(
            lambda: system.proxy.calls_for("GET", POLL)[-1].answered_at is not None, "the end of the last poll"
        )
        polls = len(system.proxy.calls_for("GET", POLL))
        command.gate.write_line()
        assert await runner.exit_code() == EXIT_OK
        assert len(system.proxy.calls_for("GET", POLL)) == polls
        assert (await system.api.run(late.run_id)).status in {"pending", "stopped"}


async def test_a_stop_reaches_a_run_of_a_runner_that_is_leaving(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner), waiter(tmp_path) as command:
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.answered("POST", REPORT + "started")
        runner.terminate()
        await runner.said("draining")
        await system.api.stop_run(run.run_id)
        assert await runner.exit_code() == EXIT_OK
        assert (await system.api.run(run.run_id)).status == "stopped"
        assert system.reports(run) == ["started", "stopped"]


async def test_a_second_signal_shortens_the_grace_period(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner), waiter(tmp_path) as command:
        run = await system.submit("wait", **command.parameters)
        pid = await command.started.pid()
        runner.terminate()
        await runner.said("draining")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert (await system.api.run(run.run_id)).status == "stopped"
        await gone(pid)


async def test_a_third_signal_ends_it_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner), waiter(tmp_path) as command:
        await system.submit("ignore-sigterm", **command.parameters)
        pid = await command.started.pid()
        runner.terminate()
        await runner.said("→ draining")
        runner.terminate()
        await runner.said("→ stopping_runs")
        runner.terminate()
        assert await runner.exit_code() == EXIT_ABORTED
        await gone(pid)
        assert not [line for line in runner.lines if "Traceback" in line]


async def test_a_coordinator_that_is_away_does_not_keep_a_runner_from_ending(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner):
        await system.server.stop()
        await runner.said("disconnected")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK


async def test_a_run_that_the_last_poll_brings_after_the_leave_is_reported_stopped(tmp_path: Path) -> None:
    """The coordinator had handed it out before the runner left, and the answer was long on its way."""
    released = asyncio.Event()
    async with open_system(tmp_path, Timings(poll_timeout_s=600)) as system:
        system.proxy.fault("GET", POLL, faults.hold(released))
        async with system.running(make_home(tmp_path / "home")) as runner:
            run = await system.submit("say", text="too late")
            await system.proxy.carried_out("GET", POLL)
            runner.actor.post("drain_requested", "the test wants it")
            await system.proxy.answered("DELETE", "/runners/.*")
            released.set()
            assert await runner.ended() == "stopped"
        assert (await system.api.run(run.run_id)).status == "stopped"
        assert system.reports(run) == ["stopped"]
        assert await system.runners() == []


async def test_a_run_that_the_last_poll_brings_as_the_runner_begins_to_deregister_is_reported_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll_released, report_released = asyncio.Event(), asyncio.Event()
    deregister = RunnerActor._deregister

    async def deregister_after_the_poll(actor: RunnerActor) -> None:
        poll_released.set()
        while len(actor._runs) == 0 and not report_released.is_set():  # noqa: ASYNC110 - the poller uses the event
            await asyncio.sleep(0)
        await deregister(actor)

    monkeypatch.setattr(RunnerActor, "_deregister", deregister_after_the_poll)
    async with open_system(tmp_path, Timings(poll_timeout_s=600)) as system:
        system.proxy.fault("GET", POLL, faults.hold(poll_released))
        system.proxy.fault("POST", TERMINAL_REPORT, faults.hold_request(report_released))
        async with system.running(make_home(tmp_path / "home")) as runner:
            run = await system.submit("say", text="too late")
            await system.proxy.carried_out("GET", POLL)
            runner.actor.post("drain_requested", "the test wants it")
            await system.proxy.answered("DELETE", "/runners/.*")
            report_released.set()
            assert await runner.ended() == "stopped"
        assert (await system.api.run(run.run_id)).status == "stopped"


async def test_a_poll_that_is_never_answered_does_not_keep_a_runner_from_ending(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with open_system(tmp_path, Timings(poll_timeout_s=600)) as system:
        system.proxy.fault("GET", POLL, faults.hold(released))
        async with system.running(make_home(tmp_path / "home")) as runner:
            run = await system.submit("say", text="lost")
            await system.proxy.carried_out("GET", POLL)
            assert await runner.drain() == "stopped"
        assert (await system.api.run(run.run_id)).status == "failed"
        assert await system.runners() == []


async def test_a_runner_that_is_forgotten_while_it_drains_still_reports_its_run(tmp_path: Path) -> None:
    database = tmp_path / "coordinator.sqlite"
    home = make_home(tmp_path / "home")
    async with (
        open_system(tmp_path, database=database) as system,
        waiter(tmp_path) as command,
        system.running(home, grace_period_s=PATIENCE_S) as runner,
    ):
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.answered("POST", REPORT + "started")
        runner.actor.post("drain_requested", "the test wants it")
        await runner.goes_through("draining")
        await system.server.stop()
        async with CoordinatorServer(port=int(system.proxy.upstream_url.rsplit(":")[-1]), database=database):
            command.gate.write_line("in time")
            assert await runner.ended() == "stopped"
            assert (await system.api.run(run.run_id)).status == "completed"
            assert system.reports(run) == ["started", "completed"]


async def _submitted(system: System) -> RunCreated | None:
    """Submit a run. Return None if the runner's agents are gone already."""
    with suppress(Refused):
        return await system.submit("say", text="just in time")
    return None
