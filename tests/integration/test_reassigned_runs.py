"""The coordinator has given a run away: its executor ends, whatever the run does, and nothing is reported."""

import json
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.command_executor import SESSION_STATUS, held_by, scripted_bench, short_graces
from tests.support.faults import Answer
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.runner import waiter
from tests.support.workflows import says, workflow, workflow_bench

DETAIL = {"error": "run_reassigned", "run_id": "run_1", "attempt": 2, "message": "Another runner has it"}
REASSIGNED = faults.instead("reassigned", Answer(409, json.dumps({"detail": DETAIL}).encode()))
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
