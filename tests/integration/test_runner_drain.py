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
from tests.support import faults
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import Program, environment, program
from tests.support.proxy import POLL, REPORT
from tests.support.runner import Bench, bench, waiter
from tests.support.watch import AT_ONCE_S, PATIENCE_S

LONG_S = "600"


@asynccontextmanager
async def runner_process(folder: Path, grace_period_s: str = LONG_S) -> AsyncIterator[tuple[Bench, Program]]:
    """A coordinator here, a runner in a process of its own that holds a poll."""
    make_home(folder / "home")
    async with bench(folder, Timings(poll_timeout_s=600)) as desk:
        arguments = ("--profile", PROFILE, "--coordinator-url", desk.proxy.url, "--grace-period", grace_period_s)
        async with program(folder, environment(folder / "home"), *arguments) as runner:
            await desk.proxy.seen("GET", POLL)
            yield desk, runner


async def test_a_runner_with_nothing_to_do_is_gone_at_once(tmp_path: Path) -> None:
    """Though its poll is held for ten minutes, and its runs would have ten."""
    async with runner_process(tmp_path) as (desk, runner):
        began = time.monotonic()
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert time.monotonic() - began < AT_ONCE_S
        assert await desk.runners() == []
        assert not [line for line in runner.lines if "Traceback" in line]


async def test_a_terminal_that_is_closed_ends_a_runner_like_any_signal(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (desk, runner):
        runner.hang_up()
        assert await runner.exit_code() == EXIT_OK
        assert await desk.runners() == []


@pytest.mark.parametrize("moment", ["run first", "signal first", "run with the signal", "signal with the run"])
async def test_a_run_that_arrives_with_the_signal_has_an_outcome_or_is_untouched(tmp_path: Path, moment: str) -> None:
    async with runner_process(tmp_path) as (desk, runner):
        if moment == "signal first":
            runner.terminate()
            run = await _submitted(desk)
        elif moment == "run first":
            run = await _submitted(desk)
            runner.terminate()
        else:
            submitting = asyncio.create_task(_submitted(desk))
            if moment == "run with the signal":
                await asyncio.sleep(0)
            runner.terminate()
            run = await submitting
        assert await runner.exit_code() == EXIT_OK
        assert await desk.runners() == []
        if run is not None:
            assert (await desk.api.run(run.run_id)).status not in {"claimed", "running", "stopping"}


async def test_a_run_at_work_may_end_within_the_grace_period(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (desk, runner), waiter(tmp_path) as command:
        run = await desk.submit("wait", **command.parameters)
        await command.started.pid()
        runner.terminate()
        await runner.said("draining")
        command.gate.write_line("in time")
        assert await runner.exit_code() == EXIT_OK
        assert (await desk.api.run(run.run_id)).status == "completed"
        assert await desk.result(run) == {"heard": "in time"}
        assert desk.reports(run) == ["started", "completed"]
        assert await desk.runners() == []


async def test_a_run_at_work_is_stopped_and_reported_after_the_grace_period(tmp_path: Path) -> None:
    async with runner_process(tmp_path, "0.3") as (desk, runner), waiter(tmp_path) as command:
        run = await desk.submit("leave-a-child", **command.parameters)
        grandchild = await command.started.pid()
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert (await desk.api.run(run.run_id)).status == "stopped"
        assert desk.reports(run) == ["started", "stopped"]
        await gone(grandchild)
        assert await desk.runners() == []


async def test_a_run_is_not_claimed_by_a_runner_that_is_leaving(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (desk, runner), waiter(tmp_path) as command:
        await desk.submit("wait", **command.parameters)
        await command.started.pid()
        runner.terminate()
        await runner.said("draining")
        late = await desk.submit("say", text="late")
        await desk.proxy.wait_for(
            lambda: desk.proxy.calls_for("GET", POLL)[-1].answered_at is not None, "the end of the last poll"
        )
        polls = len(desk.proxy.calls_for("GET", POLL))
        command.gate.write_line()
        assert await runner.exit_code() == EXIT_OK
        assert len(desk.proxy.calls_for("GET", POLL)) == polls
        assert (await desk.api.run(late.run_id)).status in {"pending", "stopped"}


async def test_a_stop_reaches_a_run_of_a_runner_that_is_leaving(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (desk, runner), waiter(tmp_path) as command:
        run = await desk.submit("wait", **command.parameters)
        await command.started.pid()
        await desk.proxy.answered("POST", REPORT + "started")
        runner.terminate()
        await runner.said("draining")
        await desk.api.stop_run(run.run_id)
        assert await runner.exit_code() == EXIT_OK
        assert (await desk.api.run(run.run_id)).status == "stopped"
        assert desk.reports(run) == ["started", "stopped"]


async def test_a_second_signal_shortens_the_grace_period(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (desk, runner), waiter(tmp_path) as command:
        run = await desk.submit("wait", **command.parameters)
        pid = await command.started.pid()
        runner.terminate()
        await runner.said("draining")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert (await desk.api.run(run.run_id)).status == "stopped"
        await gone(pid)


async def test_a_third_signal_ends_it_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (desk, runner), waiter(tmp_path) as command:
        await desk.submit("ignore-sigterm", **command.parameters)
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
    async with runner_process(tmp_path) as (desk, runner):
        await desk.server.stop()
        await runner.said("disconnected")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK


async def test_a_run_that_the_last_poll_brings_after_the_leave_is_reported_stopped(tmp_path: Path) -> None:
    """The coordinator had handed it out before the runner left, and the answer was long on its way."""
    released = asyncio.Event()
    async with bench(tmp_path, Timings(poll_timeout_s=600)) as desk:
        desk.proxy.fault("GET", POLL, faults.hold(released))
        async with desk.running(make_home(tmp_path / "home")) as runner:
            run = await desk.submit("say", text="too late")
            await desk.proxy.carried_out("GET", POLL)
            runner.actor.post("drain_requested", "the test wants it")
            await desk.proxy.answered("DELETE", "/runners/.*")
            released.set()
            assert await runner.ended() == "stopped"
        assert (await desk.api.run(run.run_id)).status == "stopped"
        assert desk.reports(run) == ["stopped"]
        assert await desk.runners() == []


async def test_a_poll_that_is_never_answered_does_not_keep_a_runner_from_ending(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with bench(tmp_path, Timings(poll_timeout_s=600)) as desk:
        desk.proxy.fault("GET", POLL, faults.hold(released))
        async with desk.running(make_home(tmp_path / "home")) as runner:
            run = await desk.submit("say", text="lost")
            await desk.proxy.carried_out("GET", POLL)
            assert await runner.drain() == "stopped"
        assert (await desk.api.run(run.run_id)).status == "failed"
        assert await desk.runners() == []


async def test_a_runner_that_is_forgotten_while_it_drains_still_reports_its_run(tmp_path: Path) -> None:
    database = tmp_path / "coordinator.sqlite"
    home = make_home(tmp_path / "home")
    async with (
        bench(tmp_path, database=database) as desk,
        waiter(tmp_path) as command,
        desk.running(home, grace_period_s=PATIENCE_S) as runner,
    ):
        run = await desk.submit("wait", **command.parameters)
        await command.started.pid()
        await desk.proxy.answered("POST", REPORT + "started")
        runner.actor.post("drain_requested", "the test wants it")
        await runner.goes_through("draining")
        await desk.server.stop()
        async with CoordinatorServer(port=int(desk.proxy.upstream_url.rsplit(":")[-1]), database=database):
            command.gate.write_line("in time")
            assert await runner.ended() == "stopped"
            assert (await desk.api.run(run.run_id)).status == "completed"
            assert desk.reports(run) == ["started", "completed"]


async def _submitted(desk: Bench) -> RunCreated | None:
    """Submit a run. Return None if the runner's agents are gone already."""
    with suppress(Refused):
        return await desk.submit("say", text="just in time")
    return None
