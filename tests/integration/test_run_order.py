"""`started` is acknowledged before any other report of a run is sent, however long that takes."""

import asyncio
from pathlib import Path

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support import faults
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT
from tests.support.runner import Bench, running, waiter

STARTED = REPORT + "started"


@pytest.mark.parametrize("kind", [faults.hold, faults.hold_request], ids=["answer held", "request held"])
async def test_a_run_is_not_reported_completed_before_its_start_is_acknowledged(
    tmp_path: Path, kind: "faults.HoldKind"
) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (desk, _):
        desk.proxy.fault("POST", STARTED, kind(released))
        run = await desk.submit("say", text="quick")
        await desk.state(run, "reporting")
        await desk.completes()
        assert _told(desk, run) == ["started"]
        released.set()
        assert (await desk.end(run)).status == "completed"
        assert _told(desk, run) == ["started", "bind", "events", "completed"]
        _assert_in_order(desk, run, "completed")


@pytest.mark.parametrize("kind", [faults.status(500), faults.status(503), faults.reset(), faults.html()])
async def test_a_start_that_fails_five_times_delays_the_end(tmp_path: Path, kind: faults.Kind) -> None:
    async with running(tmp_path) as (desk, _):
        desk.proxy.fault("POST", STARTED, kind, times=5)
        run = await desk.submit("say", text="quick")
        assert (await desk.end(run)).status == "completed"
        assert _told(desk, run) == ["started"] * 6 + ["bind", "events", "completed"]
        _assert_in_order(desk, run, "completed")


async def test_a_stop_is_reported_after_the_start_that_is_under_way(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (desk, _), waiter(tmp_path) as command:
        desk.proxy.fault("POST", STARTED, faults.hold(released))
        run = await desk.submit("wait", **command.parameters)
        await command.started.pid()
        await desk.proxy.seen("POST", STARTED)
        await desk.api.stop_run(run.run_id)
        await desk.state(run, "reporting")
        await desk.completes()
        assert _told(desk, run) == ["started"]
        released.set()
        assert (await desk.end(run)).status == "stopped"
        assert _told(desk, run) == ["started", "bind", "stopped"]
        _assert_in_order(desk, run, "stopped")


async def test_a_start_whose_answer_is_lost_is_looked_up_and_not_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path) as (desk, _):
        desk.proxy.fault("POST", STARTED, faults.lost_answer())
        run = await desk.submit("say", text="quick")
        assert (await desk.end(run)).status == "completed"
        assert _told(desk, run) == ["started", "bind", "events", "completed"]
        assert (await desk.api.run(run.run_id)).status == "completed"


async def test_a_slow_report_of_one_run_delays_no_other_run(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (desk, _):
        desk.proxy.fault("POST", TERMINAL_REPORT, faults.hold_request(released))
        slow = await desk.submit("say", text="slow")
        await desk.proxy.seen("POST", TERMINAL_REPORT)
        await desk.completes()
        assert desk.states[slow.run_id][-1] == "reporting"
        released.set()
        assert (await desk.end(slow)).status == "completed"
        assert len(desk.proxy.calls_for("GET", POLL)) >= 3


def _told(desk: Bench, run: RunCreated) -> list[str]:
    """Return all calls about the run, acknowledged or not."""
    about = f"/runner/runs/{run.run_id}/[a-z]+|/sessions/{run.session_id}/[a-z]+"
    return [call.path.rsplit("/")[-1] for call in desk.proxy.calls_for("POST", about)]


def _assert_in_order(desk: Bench, run: RunCreated, report: str) -> None:
    (started,) = desk.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/started")
    (ended,) = desk.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/{report}")
    assert started.answered_at is not None
    assert started.answered_at < ended.begun_at
