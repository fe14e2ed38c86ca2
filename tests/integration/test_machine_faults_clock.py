"""The system's clock is set, by hand or by a time server, while runs are at work."""

import itertools
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import RunCreated
from tests.support.command_executor import command_home, held_by, scripted_bench
from tests.support.home import make_home
from tests.support.proxy import POLL
from tests.support.runner import System, open_system, running, waiter
from tests.support.watch import PATIENCE_S

YEAR_S = 365 * 24 * 3600.0
JUMPS_S = (20 * YEAR_S, -40 * YEAR_S, 20 * YEAR_S)
HEARTBEAT = "/runner/heartbeat"
QUICK = Timings(heartbeat_interval_s=0.1, poll_timeout_s=0.5)
LONG_S = 3600.0


class WallClock:
    """`time.time` of this process, with an offset."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        self._true = time.time
        monkeypatch.setattr(time, "time", lambda: self._true() + self.ahead_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


async def timestamps(system: System, runs: list[RunCreated]) -> list[str]:
    """Return the timestamps of the events that the runner made for these runs, in the order of the runs."""
    events = [event for run in runs for event in await system.api.session_events(run.session_id)]
    return [event.timestamp for event in events if event.event_type == "result"]


async def test_no_run_ends_by_it(tmp_path: Path, clock: WallClock) -> None:
    async with open_system(tmp_path, QUICK) as system, AsyncExitStack() as stack:
        runner = await stack.enter_async_context(
            system.running(make_home(tmp_path / "home"), run_timeout_s=LONG_S, state_dir=tmp_path / "state")
        )
        command = await stack.enter_async_context(waiter(tmp_path))
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        for jump_s in JUMPS_S:
            clock.ahead_s += jump_s
            await system.proxy.answered("POST", HEARTBEAT, len(system.proxy.calls_for("POST", HEARTBEAT)) + 2)
            await system.proxy.answered("GET", POLL, len(system.proxy.calls_for("GET", POLL)) + 2)
            assert system.states[run.run_id][-1] == "executing"
        command.gate.write_line("through the ages")
        assert (await system.end(run)).status == "completed"
        assert await system.result(run) == {"heard": "through the ages"}
        assert runner.path == ["recovering", "registering", "online"]


async def test_the_time_limit_of_a_run_is_kept_all_the_same(tmp_path: Path, clock: WallClock) -> None:
    async with running(tmp_path, run_timeout_s=3.0) as (system, _), waiter(tmp_path) as command:
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        began = time.monotonic()
        clock.ahead_s -= YEAR_S
        assert "run timeout" in ((await system.end(run)).error or "")
        assert time.monotonic() - began < PATIENCE_S


async def test_an_executor_that_waits_for_a_turn_does_not_end_by_it(tmp_path: Path, clock: WallClock) -> None:
    home = command_home(tmp_path / "home")
    async with scripted_bench(tmp_path, home, session_idle_timeout_s=LONG_S) as stage, waiter(tmp_path) as command:
        first = await stage.start(["report"])
        pid = (await stage.completes(first))["pid"]
        for jump_s in JUMPS_S:
            clock.ahead_s += jump_s
            assert (await stage.completes(await stage.resume(first, ["report"])))["pid"] == pid
        last = await stage.resume(first, *held_by(command))
        assert await command.started.pid() == pid
        command.gate.write_line()
        await stage.completes(last)


async def test_timestamps_of_events_never_go_back(tmp_path: Path, clock: WallClock) -> None:
    async with running(tmp_path) as (system, _):
        runs = [await system.completes()]
        for jump_s in JUMPS_S:
            clock.ahead_s += jump_s
            runs += [await system.completes(), await system.completes()]
        received = await timestamps(system, runs)
    assert len(received) == len(runs)
    assert all(earlier < later for earlier, later in itertools.pairwise(received))
