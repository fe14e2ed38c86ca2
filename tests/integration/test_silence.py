"""Runs that send, write and compute nothing end with that reason; runs that do any of it continue."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import load_config
from fsm_runner.process.child.child import Child
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.control.silence import LOOKS_PER_LIMIT
from tests.support.children import subreaper_enabled
from tests.support.command_executor import Step, command_home, held_by, scripted_bench, short_graces
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import environment, program
from tests.support.provider import Held, Limits, Says, limited_home, provider
from tests.support.runner import RunningRunner, System, Waiter, open_system, waiter
from tests.support.watch import PATIENCE_S

LIMIT_S = 1.5
"""Time enough to start, on a busy machine too."""
REASON = f"silent: no event, no output and no busy process for {LIMIT_S:g} s (silence timeout); executing since "
LONG_S = 3600.0
STEPS = 5
STEP_S = LIMIT_S / 3


@asynccontextmanager
async def commands(
    folder: Path, command: str | None = None, **overrides: Any
) -> AsyncIterator[tuple[System, RunningRunner, Waiter]]:
    """A runner with a silence limit. `command` replaces the command of the agent `wait`."""
    home = make_home(folder / "home")
    if command is not None:
        (folder / "home/executors/procedural/commands/wait").write_text(f"#!/bin/sh\n{command}\n")
    settings = {"silence_timeout_s": LIMIT_S, **overrides}
    async with (
        open_system(folder) as system,
        system.running(home, **settings) as runner,
        waiter(folder) as command_waiter,
    ):
        yield system, runner, command_waiter


async def silence_of(system: System, run: RunCreated) -> list[str]:
    """Wait until the run has failed because of its silence. Return the lines of its error after the first."""
    ended = await system.end(run)
    assert ended.status == "failed"
    reason, *output = (ended.error or "").splitlines()
    assert reason.startswith(REASON)
    assert system.reports(run)[-1] == "failed"
    assert system.states[run.run_id][-4:] == ["executing", "stopping", "reporting", "failed"]
    assert not silence_tasks()
    return output


def silence_tasks() -> list[str]:
    return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("silence of")]


class Looks:
    """Counts the measurements of CPU time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cpu_s, self._looked = Child.cpu_s, asyncio.Condition()
        self.count = 0
        looks = self

        async def cpu_s(child: Child) -> float:
            looks.count += 1
            async with looks._looked:
                looks._looked.notify_all()
            return await looks._cpu_s(child)

        monkeypatch.setattr(Child, "cpu_s", cpu_s)

    async def more(self, count: int) -> None:
        """Return after `count` further measurements."""
        wanted = self.count + count
        async with asyncio.timeout(PATIENCE_S), self._looked:
            await self._looked.wait_for(lambda: self.count >= wanted)


async def test_a_silent_command_is_ended_with_its_last_lines(tmp_path: Path) -> None:
    command = 'echo $$ > "$2"; echo "last words"; echo "on stderr" >&2; read answer < "$4"'
    async with commands(tmp_path, command) as (system, _, held):
        run = await system.submit("wait", **held.parameters)
        pid = await held.started.pid()
        assert await silence_of(system, run) == ["--- stderr ---", "on stderr", "--- stdout ---", "last words"]
        await gone(pid)
        await system.completes()


async def test_a_silent_one_shot_executor_is_ended_with_its_last_lines(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home", lifecycle="one_shot")
    async with scripted_bench(tmp_path, home, silence_timeout_s=LIMIT_S) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], ["event", "hello"], ["complain", "last words\n"], *held_by(held))
        pid = await held.started.pid()
        assert await silence_of(bench.system, run) == ["--- stderr ---", "last words"]
        await gone(pid)
        error = (await bench.system.api.run(run.run_id)).error or ""
        assert "; last event: message at 20" in error
        assert "; last output: stderr at 20" in error


async def test_a_silent_turn_ends_its_session_but_idle_time_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path, silence_timeout_s=LIMIT_S) as bench, waiter(tmp_path) as held:
        first = await bench.start(["complain", "of an earlier turn\n"])
        await bench.completes(first)
        assert not silence_tasks()
        await asyncio.sleep(1.5 * LIMIT_S)
        await bench.completes(await bench.resume(first))
        second = await bench.resume(first, ["complain", "last words\n"], *held_by(held))
        pid = await held.started.pid()
        assert await silence_of(bench.system, second) == ["--- stderr ---", "last words"]
        await gone(pid)
        assert await bench.session(first) == "failed"


@pytest.mark.linux(reason="elsewhere, a process whose parent has ended does not count")
async def test_a_busy_process_in_another_session_is_no_silence_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    command = """(setsid sh -c 'echo $$ > "$0"; exec sha256sum /dev/zero' "$2" &); read answer < "$4" """
    with subreaper_enabled(exclusive=False):
        async with commands(tmp_path, command) as (system, _, held):
            run = await system.submit("wait", **held.parameters)
            pid = await held.started.pid()
            await looks.more(2 * LOOKS_PER_LIMIT)
            assert system.states[run.run_id][-1] == "executing"
            os.kill(pid, signal.SIGKILL)
            await silence_of(system, run)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(["event", "x"], id="event"),
        pytest.param(["complain", "x\n"], id="stderr"),
        pytest.param(["metadata", {"usage": {"turns": 1}}], id="usage"),
        pytest.param(["bind"], id="bind"),
    ],
)
async def test_one_kind_of_sign_is_enough(tmp_path: Path, step: Step) -> None:
    async with scripted_bench(tmp_path, silence_timeout_s=LIMIT_S) as bench, waiter(tmp_path) as held:
        run = await bench.start(*[["await", str(held.gate.path)], step] * STEPS)
        await bench.system.state(run, "executing")
        await work_slowly(held)
        await bench.completes(run)


async def work_slowly(held: Waiter, steps: int = STEPS) -> None:
    """Let the executor perform its steps in more time than the limit, and each step in less."""
    assert steps * STEP_S > LIMIT_S
    for _ in range(steps):
        await asyncio.sleep(STEP_S)
        held.gate.write_line()


async def test_a_status_detail_is_no_sign_of_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path, silence_timeout_s=LIMIT_S) as bench, waiter(tmp_path) as held:
        step: Step = ["metadata", {"status_detail": "waiting for the provider"}]
        run = await bench.start(*[["await", str(held.gate.path)], step] * 3 * STEPS)
        await bench.system.state(run, "executing")
        working = asyncio.create_task(work_slowly(held, 3 * STEPS))
        try:
            assert await silence_of(bench.system, run) == []
        finally:
            working.cancel()
            await asyncio.wait([working])


async def test_a_stop_during_a_measurement_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = asyncio.Event()

    async def cpu_s(child: Child) -> float:
        measures.set()
        await asyncio.sleep(LONG_S)
        return 0.0

    monkeypatch.setattr(Child, "cpu_s", cpu_s)
    async with commands(tmp_path) as (system, runner, held):
        run = await system.submit("wait", **held.parameters)
        await asyncio.wait_for(measures.wait(), PATIENCE_S)
        assert silence_tasks() == [f"silence of {run.run_id}"]
        runner.actor.post("stop_now_requested", "the test wants it")
        assert (await system.end(run)).status == "stopped"
        assert not silence_tasks()


async def test_the_run_timeout_applies_if_it_is_reached_first(tmp_path: Path) -> None:
    async with commands(tmp_path, silence_timeout_s=LONG_S, run_timeout_s=0.3) as (system, _, held):
        run = await system.submit("wait", **held.parameters)
        assert (await system.end(run)).error == "executing: not done within the time limit of 0.3 s (run timeout)"
        assert not silence_tasks()


async def test_silence_applies_if_it_is_reached_before_the_run_timeout(tmp_path: Path) -> None:
    async with commands(tmp_path, run_timeout_s=LONG_S) as (system, _, held):
        await silence_of(system, await system.submit("wait", **held.parameters))


async def test_a_run_with_measured_limits_can_be_silent(tmp_path: Path) -> None:
    async with commands(tmp_path, run_limits=ResourceLimits(cpu_s=1000)) as (system, _, held):
        await silence_of(system, await system.submit("wait", **held.parameters))


async def test_the_wait_for_a_provider_is_no_silence_but_the_execution_after_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    answers = asyncio.Event()
    async with provider() as api:
        api.will(Limits(resets_in_s=1.5 * LIMIT_S), Held(answers, Says()))
        home = limited_home(tmp_path / "home", api)
        async with scripted_bench(tmp_path, home, silence_timeout_s=LIMIT_S) as bench:
            try:
                run = await bench.start()
                await bench.system.state(run, "waiting_for_limit")
                assert not silence_tasks()
                await api.was_asked(2)
                await silence_of(bench.system, run)
            finally:
                answers.set()


async def test_the_flag_reaches_the_run(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with open_system(tmp_path) as system, waiter(tmp_path) as held:
        flags = ("-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(tmp_path / "state"))
        limit = ("--silence-timeout", f"{LIMIT_S:g}")
        async with program(tmp_path, environment(tmp_path / "home"), *flags, *limit):
            await system.proxy.answered("POST", "/runner/register")
            run = await system.submit("wait", **held.parameters)
            report = await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
            assert report.json["error"].startswith(REASON)


@pytest.mark.parametrize("flag_s", [None, LIMIT_S], ids=["profile", "flag"])
async def test_the_limit_comes_from_the_profile_unless_the_flag_sets_it(tmp_path: Path, flag_s: float | None) -> None:
    home = make_home(tmp_path / "home", silence_timeout=LIMIT_S if flag_s is None else LONG_S)
    async with (
        open_system(tmp_path) as system,
        system.running(home, silence_timeout_s=flag_s),
        waiter(tmp_path) as held,
    ):
        await silence_of(system, await system.submit("wait", **held.parameters))


def test_there_is_no_limit_unless_one_is_set() -> None:
    assert load_config({}, {}).silence_timeout_s is None
    assert load_profile("echo").profile.silence_timeout is None
