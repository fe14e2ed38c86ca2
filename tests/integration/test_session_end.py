"""The end of a persistent executor: in a turn it fails the turn's run, between turns it is the session's own."""

import asyncio
from pathlib import Path

import pytest

from fsm_runner.runtime.actors.run import RunActor
from tests.support import faults
from tests.support.children import open_descriptors
from tests.support.command_executor import SESSION_STATUS, Step, held_by, scripted_bench
from tests.support.processes import gone
from tests.support.runner import waiter

SESSIONS = 20
KILLED = "(killed by SIGKILL before its turn was complete, exit code 137, perhaps for lack of memory)"
IDLE_LIMIT_S = 2.0
"""Far longer than a turn takes to come."""


@pytest.mark.parametrize(
    ("end", "status"), [(["exit", 0], "finished"), (["exit", 1], "failed"), (["die"], "failed")], ids=str
)
async def test_an_exit_between_turns_is_reported_once_and_after_the_run(tmp_path: Path, end: Step, status: str) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["report"], ["afterwards", end])
        pid = (await bench.completes(run))["pid"]
        assert await bench.session_ended() == status
        await gone(pid)
        assert await bench.session(run) == status
        await bench.runner.drain()
        assert bench.accepted_messages(run) == ["started", "bind", "events", "completed", "status"]


async def test_the_end_of_a_session_waits_for_the_report_of_its_last_run(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        released = asyncio.Event()
        run = await bench.start(["bind"], ["tell_pid", str(held.started.path)], ["afterwards", ["exit", 0]])
        bench.proxy.fault("POST", f"/runner/runs/{run.run_id}/completed", faults.hold_request(released))
        await gone(await held.started.pid())
        await bench.proxy.seen("POST", f"/runner/runs/{run.run_id}/completed")
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)
        released.set()
        assert await bench.session_ended() == "finished"
        assert bench.accepted_messages(run)[-2:] == ["completed", "status"]
        assert await bench.session(run) == "finished"


async def test_the_report_of_an_end_is_retried(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        for fault in (faults.reset(), faults.status(503), faults.html()):
            bench.proxy.fault("POST", SESSION_STATUS, fault)
        run = await bench.start(["bind"], ["afterwards", ["exit", 3]])
        await bench.completes(run)
        assert await bench.session_ended() == "failed"
        assert len(bench.proxy.calls_for("POST", SESSION_STATUS)) == 4


async def test_a_refused_report_of_an_end_is_not_retried(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        bench.proxy.fault("POST", SESSION_STATUS, faults.status(404))
        run = await bench.start(["bind"], ["afterwards", ["exit", 0]])
        await bench.completes(run)
        await bench.proxy.seen("POST", SESSION_STATUS)
        await bench.runner.drain()
        assert len(bench.proxy.calls_for("POST", SESSION_STATUS)) == 1


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([["complain", "no more\n"], ["exit", 0]], "no more (exit code 0 before its turn was complete)"),
        (
            [["complain", "a warning\n"], ["say", "it broke\n"], ["exit", 7]],
            "a warning\n--- stdout ---\nit broke\n(exit code 7 before its turn was complete)",
        ),
        ([["say", "progress\n"], ["exit", 7]], "progress (exit code 7 before its turn was complete)"),
        ([["exit", 7]], "the executor ended with exit code 7 before its turn was complete"),
        ([["exit", 0]], "the executor ended with exit code 0 before its turn was complete"),
        ([["die"]], f"the executor was {KILLED[1:-1]}"),
        ([["complain", "progress 10%"], ["die"]], f"progress 10% {KILLED}"),
    ],
    ids=["0 and stderr", "both", "stdout", "exit code", "0", "signal", "signal and stderr"],
)
@pytest.mark.parametrize("turn", [1, 2])
async def test_an_exit_in_a_turn_fails_its_run_and_reports_no_status(
    tmp_path: Path, turn: int, steps: list[Step], reason: str
) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], *(steps if turn == 1 else [["complain", "said in an earlier turn"]]))
        if turn == 2:
            await bench.completes(run)
            run = await bench.resume(run, *steps)
        assert await bench.fails(run) == reason
        assert await bench.session(run) == "failed"
        assert "no live executor" in await bench.fails(await bench.resume(run))
        await bench.runner.drain()
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def test_a_turn_that_is_completed_before_the_exit_counts(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["say", '{"type":"turn_complete","result":"x"}\n'], ["exit", 5])
        await bench.completes(run)
        assert await bench.session_ended() == "failed"


async def test_an_end_is_not_reported_before_its_last_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()
    report = RunActor._report

    async def report_when_released(actor: RunActor) -> None:
        if actor.wire_run.parameters["steps"]:
            await released.wait()
        await report(actor)

    monkeypatch.setattr(RunActor, "_report", report_when_released)
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["tell_pid", str(held.started.path)], ["afterwards", ["exit", 5]])
        await gone(await held.started.pid())
        await bench.completes(await bench.start())
        assert bench.accepted_messages(run) == ["started"]
        released.set()
        await bench.completes(run)
        assert await bench.session_ended() == "failed"
        assert bench.accepted_messages(run) == ["started", "completed", "status"]


async def test_sessions_that_have_ended_leave_nothing_open(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        await bench.completes(await bench.start(["bind"], ["afterwards", ["exit", 0]]))
        await bench.session_ended()
        before = open_descriptors()
        for _ in range(SESSIONS):
            await bench.completes(await bench.start(["bind"], ["afterwards", ["exit", 0]]))
            await bench.fails(await bench.start(["bind"], ["exit", 3]))
        await bench.proxy.answered("POST", SESSION_STATUS, SESSIONS + 1)
        # Connections to the coordinator are kept, a few.
        assert open_descriptors() < before + SESSIONS


async def test_an_executor_that_waits_too_long_is_ended_and_has_finished(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, session_idle_timeout_s=0.3) as bench:
        run = await bench.start(["bind"], ["report"])
        pid = (await bench.completes(run))["pid"]
        assert await bench.session_ended() == "finished"
        await gone(pid)
        assert await bench.session(run) == "finished"
        assert "no live executor" in await bench.fails(await bench.resume(run))


async def test_a_turn_in_time_is_not_counted_as_waiting(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, session_idle_timeout_s=IDLE_LIMIT_S) as bench, waiter(tmp_path) as held:
        first = await bench.start(["bind"])
        await bench.completes(first)
        second = await bench.resume(first, *held_by(held))
        pid = await held.started.pid()
        await asyncio.sleep(IDLE_LIMIT_S)
        held.gate.write_line()
        await bench.completes(second)
        assert (await bench.completes(await bench.resume(first, ["report"])))["pid"] == pid


async def test_a_time_limit_ends_the_executor_of_a_turn(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, run_timeout_s=3.0) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], ["tell_pid", str(held.started.path)], ["silent"])
        pid = await held.started.pid()
        assert await bench.fails(run) == "executing: not done within the time limit of 3 s (run timeout)"
        await gone(pid)
        assert bench.system.reports(run) == ["started", "failed"]
        assert "no live executor" in await bench.fails(await bench.resume(run))
        await bench.runner.drain()
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def test_the_time_limit_of_a_run_is_not_that_of_its_session(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, run_timeout_s=IDLE_LIMIT_S) as bench:
        first = await bench.start(["bind"], ["report"])
        pid = (await bench.completes(first))["pid"]
        await asyncio.sleep(IDLE_LIMIT_S)
        assert (await bench.completes(await bench.resume(first, ["report"])))["pid"] == pid
