"""Another process has a runner's identity: the runner ends its executors and sends nothing more."""

import json
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.faults import Answer
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.proxy import POLL
from tests.support.runner import running, waiter

DETAIL = {"error": "registration_superseded", "runner_id": "me", "message": "Another process has registered"}
SUPERSEDED = faults.instead("superseded", Answer(409, json.dumps({"detail": DETAIL}).encode()))
CALLS = {
    "poll": ("GET", POLL),
    "heartbeat": ("POST", "/runner/heartbeat"),
    "report": ("POST", "/runner/runs/.*/completed"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_whichever_call_is_refused_the_runner_ends_and_reports_nothing(tmp_path: Path, call: str) -> None:
    with log_lines() as log:
        async with running(tmp_path, heartbeat_interval_s=0.1) as (system, runner), waiter(tmp_path) as waits:
            run = await system.submit("wait", **waits.parameters)
            other = await system.submit("wait", **waits.parameters)
            pids = [await waits.started.pid() for _ in range(2)]
            await system.proxy.answered("POST", "/runner/runs/.*/started", 2)
            system.proxy.fault(*CALLS[call], SUPERSEDED, times=None)
            if call == "report":
                waits.gate.write_line()
            else:
                await system.proxy.cut()  # the held poll
            assert await runner.ended() == "superseded"
            for pid in pids:
                await gone(pid)
            assert [system.states[each.run_id][-1] for each in (run, other)] == ["superseded"] * 2
            assert [system.reports(each) for each in (run, other)] == [["started"]] * 2
            assert system.proxy.calls_for("DELETE", "/runners/.*") == []
    assert runner.path[-2:] == ["abandoning_runs", "superseded"]
    (said,) = [line for line in log if "another process has registered under this runner's identity" in line]
    assert "--hostname" in said
