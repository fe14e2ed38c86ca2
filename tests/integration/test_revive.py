"""With `revive`, a resume of a session without a live process starts a new one, which continues the session."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import Run, RunCreated, RunRequest
from tests.support.command_executor import (
    AGENT,
    GRACE_S,
    PROFILE,
    SESSION_STATUS,
    ScriptedBench,
    command_home,
    held_by,
    scripted_bench,
    short_graces,
)
from tests.support.processes import gone
from tests.support.program import environment, program
from tests.support.provider import Dies, Fails, Held, Says, limited_home, provider
from tests.support.runner import open_system, waiter

TIMINGS = Timings(stale_after_s=0.2)
"""The coordinator soon accepts the successor of a runner that was killed."""
NO_EXECUTOR = "has no live executor on this runner"
Steps = list[list[Any]]


async def resumed(bench: ScriptedBench, run: RunCreated, prompt: str = "again") -> Run:
    """Resume the session, and return the run when it has ended."""
    request = RunRequest(type="resume_session", session_id=run.session_id, parameters={"prompt": prompt})
    return await bench.end(await bench.system.api.create_run(request))


@pytest.mark.parametrize("reply", [Fails(), Dies()], ids=["failed", "died"])
async def test_a_session_continues_after_a_turn_that_failed(tmp_path: Path, reply: Fails | Dies) -> None:
    async with provider() as api:
        api.will(reply)
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, revive=True)) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            await bench.fails(run)
            assert (await resumed(bench, run)).status == "completed"
            first, second = api.asked
            assert (second.mode, second.prompt, second.turn) == ("resume", "again", 1)
            assert second.pid != first.pid
            assert (await resumed(bench, run)).status == "completed"
            assert [asked.turn for asked in api.asked] == [1, 1, 2]
            assert await bench.session(run) == "idle"


async def test_a_session_continues_after_its_stop(tmp_path: Path) -> None:
    answers = asyncio.Event()
    async with provider() as api:
        api.will(Held(answers, Says()))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, revive=True)) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            await api.was_asked(1)
            await bench.system.api.stop_run(run.run_id)
            answers.set()
            assert (await bench.end(run)).status == "stopped"
            assert (await resumed(bench, run)).status == "completed"
            assert [asked.mode for asked in api.asked] == ["start", "resume"]


@pytest.mark.parametrize("reply", [Fails(), Dies()], ids=["failed", "died"])
async def test_without_revive_a_session_ends_with_its_process(tmp_path: Path, reply: Fails | Dies) -> None:
    async with provider() as api:
        api.will(reply)
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            await bench.fails(run)
            ended = await resumed(bench, run)
            assert ended.status == "failed"
            assert NO_EXECUTOR in (ended.error or "")
            assert len(api.asked) == 1


ENDS: dict[str, Steps] = {
    "exits": [["afterwards", ["exit", 0]]],
    "crashes": [["afterwards", ["exit", 1]]],
    "dies": [["afterwards", ["die"]]],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("revives", [True, False])
async def test_a_session_whose_process_ends_between_turns_continues(tmp_path: Path, end: str, revives: bool) -> None:
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", revive=revives)) as bench:
        run = await bench.start(["bind"], *ENDS[end])
        await bench.completes(run)
        assert await bench.session_ended() == ("finished" if end == "exits" else "failed")
        again = await bench.resume(run, ["report"])
        if revives:
            result = await bench.completes(again)
            assert (result["turns"], result["message"]["mode"]) == (1, "resume")
        else:
            assert NO_EXECUTOR in await bench.fails(again)


async def test_a_session_continues_after_its_idle_time(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home", revive=True)
    async with scripted_bench(tmp_path, home, session_idle_timeout_s=0.1) as bench:
        run = await bench.start(["bind"])
        await bench.completes(run)
        assert await bench.session_ended() == "finished"
        result = await bench.completes(await bench.resume(run, ["report"]))
        assert result["message"]["mode"] == "resume"


async def test_a_resume_waits_for_the_end_of_a_process_that_is_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process starts when the earlier one has ended, and the end of the session is not reported after that."""
    short_graces(monkeypatch)
    home = command_home(tmp_path / "home", revive=True)
    async with scripted_bench(tmp_path, home, session_idle_timeout_s=0.1) as bench:
        run = await bench.start(["bind"], ["ignore_shutdown"], ["ignore_sigterm"], ["report"])
        pid = (await bench.completes(run))["pid"]
        await asyncio.sleep(0.1 + GRACE_S / 2)
        result = await bench.completes(await bench.resume(run, ["report"]))
        assert (result["turns"], result["message"]["mode"]) == (1, "resume")
        assert result["pid"] != pid
        await gone(pid)
        assert await bench.session(run) == "idle"


async def test_of_two_resumes_at_once_one_starts_the_process_and_the_other_finds_it_busy(tmp_path: Path) -> None:
    async with (
        scripted_bench(tmp_path, command_home(tmp_path / "home", revive=True)) as bench,
        waiter(tmp_path) as held,
    ):
        run = await bench.start(["bind"], ["afterwards", ["exit", 0]])
        await bench.completes(run)
        await bench.session_ended()
        first = await bench.resume(run, *held_by(held))
        await held.started.pid()
        assert "busy" in await bench.fails(await bench.resume(run, ["report"]))
        held.gate.write_line()
        await bench.completes(first)


@pytest.mark.parametrize("revives", [True, False])
async def test_a_session_continues_on_the_next_process_of_a_runner_that_drained(tmp_path: Path, revives: bool) -> None:
    home, state_dir = command_home(tmp_path / "home", revive=revives), tmp_path / "state"
    async with open_system(tmp_path, TIMINGS) as system:
        async with system.running(home, state_dir=state_dir, grace_period_s=60) as first:
            run = await ScriptedBench(system, first).start(["bind"])
            await system.end(run)
            assert await first.drain() == "stopped"
        async with system.running(home, state_dir=state_dir) as second:
            bench = ScriptedBench(system, second)
            again = await bench.resume(run, ["report"])
            if revives:
                assert (await bench.completes(again))["message"]["mode"] == "resume"
            else:
                assert NO_EXECUTOR in await bench.fails(again)


@pytest.mark.parametrize("revives", [True, False])
@pytest.mark.parametrize("was_busy", [True, False])
async def test_a_session_continues_on_the_successor_of_a_runner_that_was_killed(
    tmp_path: Path, revives: bool, was_busy: bool
) -> None:
    answers = asyncio.Event()
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        env = environment(limited_home(tmp_path / "home", api, revive=revives).home)
        flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--state-dir", str(tmp_path / "state"))
        if was_busy:
            api.will(Held(answers, Says()))
        async with program(tmp_path, env, *flags) as runner:
            await runner.said("online")
            run = await system.submit(AGENT, prompt="hello")
            await api.was_asked(1)
            if not was_busy:
                await runner.said(f"{run.run_id}: completed")
            runner.process.kill()
        answers.set()
        async with program(tmp_path, env, *flags) as runner:
            if was_busy:
                await runner.said(f"{run.run_id}: failed")
            else:
                await system.proxy.answered("POST", SESSION_STATUS)
                assert await system.api.session_status(run.session_id) == ("finished" if revives else "failed")
            request = RunRequest(type="resume_session", session_id=run.session_id, parameters={"prompt": "again"})
            again = await system.api.create_run(request)
            await runner.said(f"{again.run_id}: {'completed' if revives else 'failed'}")
            ended = await system.api.run(again.run_id)
            if revives:
                assert [asked.mode for asked in api.asked] == ["start", "resume"]
                assert await system.api.session_status(run.session_id) == "idle"
            else:
                assert NO_EXECUTOR in (ended.error or "")
