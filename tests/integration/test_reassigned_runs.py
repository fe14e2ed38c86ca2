"""The coordinator has given a run away: its executor ends, whatever the run does, and nothing is reported."""

import json
from pathlib import Path

import msgspec
import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import RunCreated
from tests.support import faults
from tests.support.command_executor import AGENT, SESSION_STATUS, command_home, held_by, scripted_bench, short_graces
from tests.support.faults import Answer
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.proxy import POLL
from tests.support.runner import System, open_system, waiter
from tests.support.workflows import says, workflow, workflow_bench

DETAIL = {"error": "run_reassigned", "run_id": "run_1", "attempt": 2, "message": "Another runner has it"}
REASSIGNED = faults.instead("reassigned", Answer(409, json.dumps({"detail": DETAIL}).encode()))
HEARTBEAT = "/runner/heartbeat"
LOST = Timings(heartbeat_interval_s=0.1, stale_after_s=0.3, removed_after_s=0.5, sweep_interval_s=0.05)
REPORT, EVENT, BIND = "/runner/runs/.*/completed", "/sessions/.*/events", "/sessions/.*/bind"


@pytest.mark.parametrize("path", [BIND, EVENT], ids=["bind", "event"])
async def test_the_executor_ends_during_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    short_graces(monkeypatch)
    async with waiter(tmp_path) as waits, scripted_bench(tmp_path) as bench:
        bench.proxy.fault("POST", path, REASSIGNED)
        run = await bench.start(["bind"], ["event", {"event_type": "post_tool"}], *held_by(waits))
        pid = await waits.started.pid()
        await bench.system.state(run, "superseded")
        await gone(pid)
        assert "completed" not in bench.accepted_messages(run)
        assert bench.proxy.calls_for("POST", SESSION_STATUS) == []


async def test_the_executor_ends_that_is_idle_when_the_report_of_its_turn_is_refused(tmp_path: Path) -> None:
    with log_lines("WARNING") as log:
        async with waiter(tmp_path) as waits, scripted_bench(tmp_path) as bench:
            bench.proxy.fault("POST", REPORT, REASSIGNED)
            run = await bench.start(["bind"], *held_by(waits), ["report"])
            pid = await waits.started.pid()
            waits.gate.write_line()
            await bench.system.state(run, "superseded")
            await gone(pid)
            assert bench.proxy.calls_for("POST", SESSION_STATUS) == []
    assert [line for line in log if run.run_id in line or run.session_id in line] == [
        line for line in log if "superseded after" in line
    ]


async def test_a_waiting_workflow_ends_without_a_report(tmp_path: Path) -> None:
    asks = workflow(
        write={"turn": says("one"), "on_done": "ask"},
        ask={"approval": {"question": "?"}, "on_done": "completed", "on_denied": "failed"},
    )
    async with workflow_bench(tmp_path, asks) as bench:
        bench.proxy.fault("PATCH", "/sessions/.*/metadata", REASSIGNED)
        run = await bench.submit()
        await bench.system.state(run, "superseded")
        assert bench.system.states[run.run_id][-3:] == ["waiting", "abandoning", "superseded"]
        assert bench.system.reports(run) == ["started"]


@pytest.mark.parametrize("is_idle", [False, True], ids=["in a turn", "idle"])
async def test_a_later_attempt_begins_in_a_new_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_idle: bool
) -> None:
    """The coordinator takes the runner for lost, which gets the run again when it is back."""
    short_graces(monkeypatch)
    home = command_home(tmp_path / "home")
    home = msgspec.structs.replace(home, agents=(msgspec.structs.replace(home.agents[0], retry_lost=1),))
    async with waiter(tmp_path) as waits, open_system(tmp_path, LOST) as system, system.running(home) as runner:
        system.proxy.fault("POST", REPORT, faults.reset(), times=None)
        run = await system.submit(AGENT, steps=[["bind"], *held_by(waits), ["report"]])
        first = await waits.started.pid()
        if is_idle:
            waits.gate.write_line()
            await system.state(run, "reporting")
        for call in (("GET", POLL), ("POST", HEARTBEAT)):
            system.proxy.fault(*call, faults.reset(), times=None)
        await system.proxy.cut()
        await system.proxy.wait_until(lambda: is_pending_again(system, run), "the run is queued again")
        system.proxy.heal()
        second = await waits.started.pid()
        await gone(first)
        assert second != first
        waits.gate.write_line()
        await system.proxy.answered("POST", REPORT)
        assert (await system.api.run(run.run_id)).status == "completed"
        assert system.states[run.run_id].count("superseded") == 1
        assert await runner.drain() == "stopped"


async def is_pending_again(system: System, run: RunCreated) -> bool:
    found = await system.api.run(run.run_id)
    return found.attempt == 2 and found.status == "pending"
