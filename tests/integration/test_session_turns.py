"""A persistent executor from turn to turn: one process for its session, and a session of its own for each."""

import asyncio
from pathlib import Path

from tests.support import faults
from tests.support.command_executor import SESSION_STATUS, ScriptedBench, held_by, scripted_bench
from tests.support.processes import gone
from tests.support.runner import waiter

TURNS = 100


async def test_a_hundred_turns_are_taken_by_one_process(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        first = await bench.start(["bind"], ["report"])
        pid = (await bench.completes(first))["pid"]
        for turn in range(2, TURNS + 1):
            run = await bench.resume(first, ["report"])
            answer = await bench.completes(run)
            assert (answer["pid"], answer["turns"]) == (pid, turn)
            assert bench.system.reports(run) == ["started", "completed"]
        assert await bench.session(first) == "idle"
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def test_a_turn_leaves_the_session_idle(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"])
        await bench.completes(run)
        (report,) = bench.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/completed")
        assert report.json["session_status"] == "idle"
        assert await bench.session(run) == "idle"


async def test_a_further_turn_is_what_the_protocol_says_and_no_more(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        first = await bench.start(["bind"])
        await bench.completes(first)
        answer = await bench.completes(await bench.resume(first, ["report"]))
        assert answer["message"] == {"type": "turn", "parameters": {"steps": [["report"]]}}


async def test_two_sessions_at_once_do_not_mix(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        runs = [await bench.start(["bind"], ["event", name]) for name in ("a0", "b0")]
        await asyncio.gather(*map(bench.completes, runs))
        for turn in range(1, 6):
            further = [
                await bench.resume(run, ["event", f"{name}{turn}"], ["report"])
                for name, run in zip("ab", runs, strict=True)
            ]
            answers = await asyncio.gather(*map(bench.completes, further))
            assert answers[0]["pid"] != answers[1]["pid"]
            assert [answer["turns"] for answer in answers] == [turn + 1] * 2
        for name, run in zip("ab", runs, strict=True):
            assert await _texts(bench, run.session_id) == [f"{name}{turn}" for turn in range(6)]


async def test_a_turn_at_work_does_not_delay_another_session(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        slow = await bench.start(["bind"], *held_by(held))
        await held.started.pid()
        await bench.completes(await bench.start(["bind"]))
        held.gate.write_line()
        await bench.completes(slow)


async def test_a_resume_of_a_busy_session_fails_and_the_turn_continues(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        first = await bench.start(["bind"], *held_by(held), ["report"])
        pid = await held.started.pid()
        error = await bench.fails(await bench.resume(first, ["report"]))
        assert first.session_id in error
        assert "busy" in error
        held.gate.write_line()
        answer = await bench.completes(first)
        assert (answer["pid"], answer["turns"]) == (pid, 1)
        assert await bench.session(first) == "idle"
        again = await bench.completes(await bench.resume(first, ["report"]))
        assert (again["pid"], again["turns"]) == (pid, 2)


async def test_a_resume_without_a_live_executor_fails_and_says_what_to_do(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        first = await bench.start(["bind"], ["afterwards", ["exit", 0]])
        await bench.completes(first)
        assert await bench.session_ended() == "finished"
        error = await bench.fails(await bench.resume(first))
        assert f"session {first.session_id} has no live executor on this runner" in error
        assert "start a new session" in error


async def test_a_resume_of_a_session_whose_end_is_being_reported_fails(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        released = asyncio.Event()
        first = await bench.start(["bind"], ["afterwards", ["exit", 0]])
        bench.proxy.fault("POST", SESSION_STATUS, faults.hold_request(released))
        await bench.completes(first)
        await bench.proxy.seen("POST", SESSION_STATUS)
        resumed = await bench.resume(first)
        await bench.system.state(resumed, "reporting")
        released.set()
        assert "no live executor" in await bench.fails(resumed)


async def test_killing_an_executor_in_a_turn_fails_that_run_alone(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path, "one") as one, waiter(tmp_path, "other") as other:
        doomed = await bench.start(["bind"], ["complain", "last words"], *held_by(one), ["die"])
        kept = await bench.start(["bind"], *held_by(other), ["report"])
        pids = await one.started.pid(), await other.started.pid()
        one.gate.write_line()
        assert (await bench.fails(doomed)).startswith("last words (killed by SIGKILL ")
        await gone(pids[0])
        other.gate.write_line()
        assert (await bench.completes(kept))["pid"] == pids[1]
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def _texts(bench: ScriptedBench, session_id: str) -> list[str]:
    calls = bench.proxy.acknowledged("POST", f"/sessions/{session_id}/events")
    messages = [call.json for call in calls if call.json["event_type"] == "message"]
    return [message["content"][0]["text"] for message in messages]
