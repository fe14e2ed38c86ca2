"""The coordinator has all messages of an executor before its turn is completed (section 1.1)."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.gateway.endpoint import LIMITS
from tests.support import faults
from tests.support.command_executor import ScriptedBench, Step, command_home, held_by, scripted_bench
from tests.support.faults import Kind
from tests.support.runner import open_system, waiter

IMPATIENT = msgspec.structs.replace(LIMITS, hold_s=0.01)
"""An executor is answered before the coordinator is."""
MESSAGES = r"/sessions/[^/]+/(events|bind)"
ANYTHING = ".*"
TOLD: list[Step] = [["bind"], ["event", "1"], ["event", "2"], ["metadata", {"last_resumed_at": "now"}], ["report"]]
ORDER = ["started", "bind", "events", "events", "metadata", "events", "completed"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsm_runner.gateway.endpoint.LIMITS", IMPATIENT)


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.parametrize(
    "fault",
    [faults.delay(0.05), faults.reset(), faults.status(503), faults.lost_answer(), faults.html()],
    ids=lambda fault: fault.name,
)
@pytest.mark.usefixtures("impatient")
async def test_all_messages_arrive_in_order_before_the_report(tmp_path: Path, lifecycle: str, fault: Kind) -> None:
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", lifecycle=lifecycle)) as bench:
        bench.proxy.fault("POST", MESSAGES, fault, times=2)
        bench.proxy.fault("PATCH", ANYTHING, fault)
        run = await bench.start(*TOLD)
        answer = await bench.completes(run)
        assert answer["answers"] == [200, 201, 201, 200]
        assert bench.accepted_messages(run) == ORDER
        assert await bench.session(run) == ("idle" if lifecycle == "persistent" else "finished")


@pytest.mark.usefixtures("impatient")
async def test_a_turn_is_not_completed_before_its_bind_was_acknowledged(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        released = asyncio.Event()
        bench.proxy.fault("POST", "/sessions/[^/]+/bind", faults.hold_request(released))
        run = await bench.start(["bind"], ["afterwards", ["tell_pid", str(held.started.path)]])
        await held.started.pid()
        await bench.system.state(run, "reporting")
        assert not bench.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/completed")
        released.set()
        await bench.completes(run)
        assert bench.accepted_messages(run) == ["started", "bind", "completed"]
        assert await bench.session(run) == "idle"


async def test_a_bind_after_the_turn_is_refused_and_leaves_the_session_idle(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        late: list[Step] = [["await", str(held.gate.path)], ["bind"], ["tell_pid", str(held.started.path)]]
        run = await bench.start(["bind"], ["afterwards", *late])
        await bench.completes(run)
        held.gate.write_line()
        await held.started.pid()
        assert await bench.session(run) == "idle"
        assert bench.accepted_messages(run) == ["started", "bind", "completed"]
        again = await bench.completes(await bench.resume(run, ["bind"], ["report"]))
        assert again["answers"] == [200, 409, 200]


async def test_an_event_between_turns_is_accepted(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        late: list[Step] = [["await", str(held.gate.path)], ["event", "late"], ["tell_pid", str(held.started.path)]]
        run = await bench.start(["bind"], ["afterwards", *late])
        await bench.completes(run)
        held.gate.write_line()
        await held.started.pid()
        assert bench.accepted_messages(run) == ["started", "bind", "completed", "events"]
        assert await bench.session(run) == "idle"


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.usefixtures("impatient")
async def test_work_continues_while_the_coordinator_is_away(tmp_path: Path, lifecycle: str) -> None:
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with scripted_bench(tmp_path, home) as bench, waiter(tmp_path) as held:
        done = ["tell_pid", str(held.started.path)]
        run = await bench.start(*held_by(held), *TOLD, ["afterwards", done])
        await held.started.pid()
        await bench.proxy.answered("POST", f"/runner/runs/{run.run_id}/started")
        for method in ("GET", "POST", "PATCH"):
            bench.proxy.fault(method, ANYTHING, faults.reset(), times=None)
        held.gate.write_line()
        await held.started.pid()
        await bench.system.state(run, "reporting")
        assert bench.accepted_messages(run) == ["started"]
        bench.proxy.heal()
        answer = await bench.completes(run)
        assert answer["answers"] == [200, 201, 201, 200]
        assert bench.accepted_messages(run) == ORDER


@pytest.mark.usefixtures("impatient")
async def test_an_executor_that_ends_while_the_coordinator_is_away_is_reported_afterwards(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(*held_by(held), ["bind"], ["afterwards", ["exit", 4]])
        await held.started.pid()
        await bench.proxy.answered("POST", f"/runner/runs/{run.run_id}/started")
        for method in ("GET", "POST"):
            bench.proxy.fault(method, ANYTHING, faults.reset(), times=None)
        held.gate.write_line()
        await bench.system.state(run, "reporting")
        bench.proxy.heal()
        await bench.completes(run)
        assert await bench.session_ended() == "failed"
        assert bench.accepted_messages(run) == ["started", "bind", "completed", "status"]


async def test_sessions_outlast_a_restart_of_the_coordinator(tmp_path: Path) -> None:
    database = tmp_path / "coordinator.sqlite"
    async with (
        open_system(tmp_path, database=database) as system,
        system.running(command_home(tmp_path / "home")) as runner,
        waiter(tmp_path, "idle") as idle,
        waiter(tmp_path, "busy") as busy,
    ):
        bench = ScriptedBench(system, runner)
        ends = await bench.start(["bind"], ["afterwards", *held_by(idle), ["exit", 6]])
        await bench.completes(ends)
        await idle.started.pid()
        stays = await bench.start(["bind"], *held_by(busy), ["event", "meanwhile"], ["report"])
        pid = await busy.started.pid()
        await system.server.stop()
        idle.gate.write_line()
        busy.gate.write_line()
        await system.state(stays, "reporting")
        async with CoordinatorServer(port=urlsplit(bench.proxy.upstream_url).port or 0, database=database):
            await bench.completes(stays)
            assert await bench.session_ended() == "failed"
            assert (await bench.session(ends), await bench.session(stays)) == ("failed", "idle")
            assert (await bench.completes(await bench.resume(stays, ["report"])))["pid"] == pid
            assert await runner.drain() == "stopped"
            assert await bench.session(stays) == "finished"
