"""`started` is acknowledged before any other report of a run is sent, however long that takes."""

import asyncio
from pathlib import Path

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support import faults
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT
from tests.support.runner import System, running, waiter

STARTED = REPORT + "started"


@pytest.mark.parametrize("kind", [faults.hold, faults.hold_request], ids=["answer held", "request held"])
async def test_a_run_is_not_reported_completed_before_its_start_is_acknowledged(
    tmp_path: Path, kind: "faults.HoldKind"
) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", STARTED, kind(released))
        run = await system.submit("say", text="quick")
        await system.state(run, "reporting")
        await system.completes()
        assert _told(system, run) == ["started"]
        released.set()
        assert (await system.end(run)).status == "completed"
        assert _told(system, run) == ["started", "bind", "events", "completed"]
        _assert_in_order(system, run, "completed")


@pytest.mark.parametrize("kind", [faults.status(500), faults.status(503), faults.reset(), faults.html()])
async def test_a_start_that_fails_five_times_delays_the_end(tmp_path: Path, kind: faults.Kind) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", STARTED, kind, times=5)
        run = await system.submit("say", text="quick")
        assert (await system.end(run)).status == "completed"
        assert _told(system, run) == ["started"] * 6 + ["bind", "events", "completed"]
        _assert_in_order(system, run, "completed")


async def test_a_stop_is_reported_after_the_start_that_is_under_way(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        system.proxy.fault("POST", STARTED, faults.hold(released))
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.seen("POST", STARTED)
        await system.api.stop_run(run.run_id)
        await system.state(run, "reporting")
        await system.completes()
        assert _told(system, run) == ["started"]
        released.set()
        assert (await system.end(run)).status == "stopped"
        assert _told(system, run) == ["started", "bind", "stopped"]
        _assert_in_order(system, run, "stopped")


async def test_a_start_whose_answer_is_lost_is_looked_up_and_not_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", STARTED, faults.lost_answer())
        run = await system.submit("say", text="quick")
        assert (await system.end(run)).status == "completed"
        assert _told(system, run) == ["started", "bind", "events", "completed"]
        assert (await system.api.run(run.run_id)).status == "completed"


async def test_a_slow_report_of_one_run_delays_no_other_run(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", TERMINAL_REPORT, faults.hold_request(released))
        slow = await system.submit("say", text="slow")
        await system.proxy.seen("POST", TERMINAL_REPORT)
        await system.completes()
        assert system.states[slow.run_id][-1] == "reporting"
        released.set()
        assert (await system.end(slow)).status == "completed"
        assert len(system.proxy.calls_for("GET", POLL)) >= 3


def _told(system: System, run: RunCreated) -> list[str]:
    """Return all calls about the run, acknowledged or not."""
    about = f"/runner/runs/{run.run_id}/[a-z]+|/sessions/{run.session_id}/[a-z]+"
    return [call.path.rsplit("/")[-1] for call in system.proxy.calls_for("POST", about)]


def _assert_in_order(system: System, run: RunCreated, report: str) -> None:
    (started,) = system.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/started")
    (ended,) = system.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/{report}")
    assert started.answered_at is not None
    assert started.answered_at < ended.begun_at
