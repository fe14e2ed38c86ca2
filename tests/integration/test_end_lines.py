"""The log line with which a run or session ends: its duration, and why the coordinator has no record of the end."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from loguru import logger

from fsm_runner.protocol.wire import RunCreated
from fsm_runner.util import event_loop
from tests.support import faults
from tests.support.command_executor import SESSION_STATUS, scripted_bench
from tests.support.home import make_home
from tests.support.logs import log_lines
from tests.support.proxy import REPORT
from tests.support.runner import open_system, running, waiter

STOPPED_S = 0.4


def line_of(log: list[str], subject: str, state: str) -> str:
    (line,) = [line for line in log if line.startswith(f"{subject}: {state} after")]
    return line


def test_the_duration_of_a_run_includes_a_stop_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "STOP_THRESHOLD_S", 0.1)

    async def stopped_meanwhile() -> tuple[RunCreated, float]:
        """The run, and how much of the stop the clock of the loop has left out."""
        async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            began_s = time.monotonic() - asyncio.get_running_loop().time()
            time.sleep(STOPPED_S)  # noqa: ASYNC251 - the loop has to stand still
            command.gate.write_line()
            await system.end(run)
            return run, time.monotonic() - asyncio.get_running_loop().time() - began_s

    with log_lines() as log:
        run, left_out_s = event_loop.run(stopped_meanwhile())
    assert left_out_s > STOPPED_S / 2
    duration = re.search(r"after ([0-9.]+) s", line_of(log, run.run_id, "completed"))
    assert duration is not None
    assert float(duration.group(1)) >= STOPPED_S


async def test_the_end_of_a_run_that_the_coordinator_has_forgotten_says_so(tmp_path: Path) -> None:
    async with open_system(tmp_path) as system:
        system.proxy.fault("POST", REPORT + "completed", faults.status(404, "Run not found"))
        system.proxy.fault("POST", REPORT + "failed", faults.status(400, "no"))
        async with system.running(make_home(tmp_path / "home")):
            warnings: list[str] = []
            sink = logger.add(lambda message: warnings.append(message.record["message"]), level="WARNING")
            try:
                completed, failed = await system.submit("say", text="x"), await system.submit("fail", code="3")
                await system.end(completed)
                await system.end(failed)
                await system.completes()
            finally:
                logger.remove(sink)
    line = line_of(warnings, completed.run_id, "failed")
    assert "it ended as completed here, but the coordinator does not know it any more: " in line
    assert "Run not found" in line
    line = line_of(warnings, failed.run_id, "failed")
    assert "exit code 3" in line
    assert "it ended as failed here, but the coordinator has not accepted the report: " in line


async def test_the_end_of_a_session_that_the_coordinator_has_forgotten_says_so(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as at:
        run = await at.start()
        await at.completes(run)
        at.proxy.fault("POST", SESSION_STATUS, faults.status(404, "Session not found"))
        with log_lines() as log:
            await at.stop_session(run)
            await at.proxy.seen("POST", SESSION_STATUS)
            await at.runner.drain()
    line = line_of(log, run.session_id, "failed")
    assert "it ended as stopped here, but the coordinator does not know it any more: " in line
