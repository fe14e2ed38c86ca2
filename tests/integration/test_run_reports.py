"""The end of a run is reported until it is acknowledged, once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support import faults
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT, Call
from tests.support.runner import System, running, waiter

REFUSALS = 10


@pytest.mark.parametrize(
    ("agent", "parameters", "status"), [("say", {"text": "x"}, "completed"), ("fail", {"code": 1}, "failed")]
)
async def test_a_report_that_is_refused_ten_times_is_acknowledged_once(
    tmp_path: Path, agent: str, parameters: dict[str, Any], status: str
) -> None:
    async with running(tmp_path) as (system, _):
        for number in range(REFUSALS):
            kind = (faults.status(500), faults.html(), faults.reset())[number % 3]
            system.proxy.fault("POST", TERMINAL_REPORT, kind)
        run = await system.submit(agent, **parameters)
        assert (await system.end(run)).status == status
        assert len(_terminal(system, run)) == REFUSALS + 1
        assert {call.path for call in _terminal(system, run)} == {f"/runner/runs/{run.run_id}/{status}"}
        assert system.reports(run) == ["started", status]


async def test_a_stop_that_is_refused_ten_times_is_acknowledged_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        system.proxy.fault("POST", TERMINAL_REPORT, faults.status(503), times=REFUSALS)
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.api.stop_run(run.run_id)
        assert (await system.end(run)).status == "stopped"
        assert system.reports(run) == ["started", "stopped"]


async def test_a_report_whose_answer_is_lost_is_looked_up_and_not_sent_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", TERMINAL_REPORT, faults.lost_answer())
        run = await system.submit("say", text="x")
        assert (await system.end(run)).status == "completed"
        (received,) = _terminal(system, run)
        (looked_up,) = system.proxy.acknowledged("GET", f"/runs/{run.run_id}")
        assert received.begun_at < looked_up.begun_at
        assert system.states[run.run_id][-2:] == ["reporting", "completed"]


async def test_a_started_report_whose_answer_is_lost_is_not_sent_again_after_a_stop(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        system.proxy.fault("POST", REPORT + "started", faults.lost_answer())
        system.proxy.fault("GET", "/runs/[^/]+", faults.hold_request(released))
        run = await system.submit("wait", **command.parameters)
        await system.proxy.seen("GET", f"/runs/{run.run_id}")
        system.proxy.fault("GET", POLL, faults.lost_answer())
        await system.api.stop_run(run.run_id)
        released.set()
        assert (await system.end(run)).status == "stopped"
        assert len(system.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/started")) == 1


async def test_a_report_that_did_not_arrive_is_repeated_as_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", TERMINAL_REPORT, faults.reset())
        run = await system.submit("say", text="x")
        assert (await system.end(run)).status == "completed"
        first, second = _terminal(system, run)
        assert (first.path, first.body) == (second.path, second.body)
        assert second.acknowledged


async def test_a_report_that_is_answered_404_fails_the_run_here_and_the_runner_lives(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, runner):
        system.proxy.fault("POST", TERMINAL_REPORT, faults.status(404, "Run not found"))
        run = await system.submit("say", text="x")
        await system.end(run)
        assert system.states[run.run_id][-2:] == ["reporting", "failed"]
        assert len(_terminal(system, run)) == 1
        await system.completes()
        assert runner.actor.state == "online"


@pytest.mark.parametrize("message", ["bind", "events"])
async def test_a_message_that_is_lost_is_sent_again_before_the_report(tmp_path: Path, message: str) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", f"/sessions/[^/]+/{message}", faults.reset(), times=3)
        run = await system.submit("say", text="x")
        assert (await system.end(run)).status == "completed"
        assert await system.result(run) == {"said": "x"}
        (received,) = system.proxy.acknowledged("POST", f"/sessions/{run.session_id}/{message}")
        assert received.answered_at is not None
        assert received.answered_at < _terminal(system, run)[0].begun_at


async def test_many_runs_through_a_bad_connection_each_end_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        kinds = (faults.status(500), faults.reset(), faults.broken_json(), faults.status(429), faults.html())
        for kind in kinds * 8:
            system.proxy.fault("POST", "/runner/runs/.*|/sessions/.*", kind)
        runs = await asyncio.gather(*(system.submit("say", text=str(number)) for number in range(20)))
        for number, run in enumerate(runs):
            assert (await system.end(run)).status == "completed"
            assert system.reports(run) == ["started", "completed"]
            assert await system.result(run) == {"said": str(number)}


def _terminal(system: System, run: RunCreated) -> list[Call]:
    return system.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/(completed|failed|stopped)")
