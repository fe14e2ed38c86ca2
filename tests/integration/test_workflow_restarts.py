"""Workflows continue in the next process of their runner, after a drain and after a kill."""

import asyncio
import itertools
import time
from collections.abc import Collection
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.app.build import assembled_runner
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.provider_limits import CONTINUE_PROMPT
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.journal.reader import Reader, journals
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.workflow import turn
from tests.support import faults
from tests.support.command_executor import AGENT, PROFILE, SESSION_STATUS, command_home, held_by
from tests.support.logs import log_lines
from tests.support.program import environment, program
from tests.support.provider import Limits, Says, limited_home, provider
from tests.support.runner import FAST, System, Waiter, open_system, waiter
from tests.support.watch import PATIENCE_S
from tests.support.workflows import (
    WorkflowBench,
    broken_off,
    install,
    loaded,
    says,
    shell,
    steps,
    visits_in,
    with_agent,
    workflow,
)

TIMINGS = Timings(stale_after_s=0.2)
"""The coordinator soon accepts the successor of a runner that has not deregistered."""
GRACE_S = 60.0
SOON_S = 1.5
"""Longer than the end of a runner takes."""


def kept(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return settings of a runner that keeps its journal."""
    return {"state_dir": folder / "state", "grace_period_s": GRACE_S, **settings}


async def test_a_drain_leaves_a_workflow_that_waits_to_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    home, settings = command_home(tmp_path / "home", lifecycle="one_shot"), kept(tmp_path)
    home = with_agent(home, "worker")
    install(
        tmp_path / "home",
        workflow(
            first={"turn": says("one", ["bind"]), "on_done": "ask"},
            ask={"approval": {"question": "Go on after ${first.result}?"}, "on_done": "second", "on_denied": "failed"},
            second={"turn": says("two: ${first.result}, by ${ask.by}"), "on_done": "completed"},
        ),
    )
    async with open_system(tmp_path, TIMINGS) as system:
        async with system.running(home, **settings) as first:
            run = await system.submit("worker")
            await system.detail(run, "ask")
            with log_lines("WARNING") as lines:
                assert await first.drain() == "stopped"
            assert "not deregistered, because this is left to the runner's next process: 1 waiting run" in lines
        assert system.proxy.calls_for("DELETE", ".*") == []
        # The file may change or disappear meanwhile.
        (tmp_path / "home/workflows/flow.toml").unlink()
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, settings["state_dir"])
            await bench.enters(run, "ask", 2)
            await bench.decide(run)
            await bench.completes(run)
            assert await bench.results(run) == ["two: one, by ada"]
            assert bench.path(run) == ["first:done", "ask:done", "second:done"]
            assert len(bench.binds(run)) == 1
        questions = [each["approval"] for each in bench.workflow_fields(run) if each and each["approval"]]
        assert len({(each["question"], each["due"], each["visit"]) for each in questions}) == 1
        assert system.reports(run) == ["started", "completed"]


async def test_a_run_that_waits_does_so_while_the_coordinator_is_away(tmp_path: Path) -> None:
    home, settings = command_home(tmp_path / "home"), kept(tmp_path)
    flow = loaded(
        tmp_path,
        workflow(ask={"approval": {"question": "Go on?"}, "on_done": "completed", "on_denied": "failed"}),
    )
    async with open_system(tmp_path, TIMINGS) as system:
        async with broken_off(system, home, flow, **settings):
            run = await system.submit(AGENT)
            await system.detail(run, "ask")
        for method in ("GET", "POST", "PATCH", "DELETE"):
            system.proxy.fault(method, ".*", faults.status(503), times=None)
        config = RunnerConfig(project_dir=tmp_path / "project", **settings)
        async with assembled_runner(config, home, system.proxy.url, observer=system, policies=FAST) as runner:
            living = asyncio.create_task(runner.live(), name="runner without a coordinator")
            await system.detail(run, "ask", 2)
            runner.post("drain_requested")
            await living
        assert system.states[run.run_id][-1] == "waiting"
        system.proxy.heal()
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, settings["state_dir"])
            await bench.decide(run)
            await bench.completes(run)
        assert system.reports(run)[-1] == "completed"


async def test_a_wait_ends_at_its_time_whatever_happens_meanwhile(tmp_path: Path) -> None:
    home, settings = command_home(tmp_path / "home"), kept(tmp_path)
    flow = loaded(tmp_path, workflow(pause={"wait": {"for_s": SOON_S}, "on_done": "completed"}))
    async with open_system(tmp_path, TIMINGS) as system:
        async with broken_off(system, home, flow, **settings):
            run = await system.submit(AGENT)
            await system.detail(run, "pause")
            began_s = time.time()
        async with system.running(home, **settings):
            assert (await system.end(run)).status == "completed"
        assert time.time() - began_s >= SOON_S - 0.1
        assert [visit.ending for visit in visits_in(settings["state_dir"], run)] == ["done"]


def interruptible(name: str, held: Waiter, on_interrupted: str | None) -> str:
    interrupted = {} if on_interrupted is None else {"on_interrupted": on_interrupted}
    states: dict[str, Any] = {
        "work": {"turn": steps(["bind"], *held_by(held), ["report"]), "on_done": "completed", **interrupted}
    }
    if on_interrupted == "repair":
        states["repair"] = {"command": shell("echo repaired"), "on_done": "completed"}
    return workflow(name=name, **states)


async def prompts_taken(state_dir: Path, runs: Collection[RunCreated]) -> None:
    """Return when it is on disk that the executors have taken the prompts."""
    async with asyncio.timeout(PATIENCE_S):
        while not all(visit.progress for run in runs for visit in visits_in(state_dir, run)):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def test_a_kill_in_a_turn_is_followed_by_what_its_state_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"gives-up": None, "repeats": "repeat", "continues": "continue", "repairs": "repair"}
    home, settings = command_home(tmp_path / "home", lifecycle="one_shot"), kept(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(open_system(tmp_path, TIMINGS))
        waiters = {name: await stack.enter_async_context(waiter(tmp_path, name)) for name in names}
        for name, on_interrupted in names.items():
            install(tmp_path / "home", interruptible(name, waiters[name], on_interrupted), name)
            home = with_agent(home, name, name)
        arguments = (
            "--profile",
            PROFILE,
            "--coordinator-url",
            system.proxy.url,
            "--state-dir",
            str(tmp_path / "state"),
        )
        project = ("--project-dir", str(tmp_path / "project"))
        (tmp_path / "project").mkdir()
        async with program(tmp_path, environment(home.home), *arguments, *project) as runner:
            await runner.said("online")
            runs = {name: await system.submit(name) for name in names}
            for held in waiters.values():
                await held.started.pid()
            await prompts_taken(tmp_path / "state", runs.values())
            runner.process.kill()
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, settings["state_dir"])
            for name in ("repeats", "continues"):
                await waiters[name].started.pid()
                waiters[name].gate.write_line()
            error = await bench.fails(runs["gives-up"])
            assert error.startswith(
                "interrupted: the runner's process ended during the state 'work' of the workflow; its"
            )
            repeated, continued = [(await bench.completes(runs[name]))["message"] for name in ("repeats", "continues")]
            assert (repeated["mode"], "prompt" in repeated["parameters"]) == ("resume", False)
            assert (continued["mode"], continued["parameters"]["prompt"]) == ("resume", turn.CONTINUE_PROMPT)
            await bench.completes(runs["repairs"])
            paths = {name: bench.path(run) for name, run in runs.items()}
            assert paths == {
                "gives-up": ["work:interrupted"],
                "repeats": ["work:done"],
                "continues": ["work:done"],
                "repairs": ["work:interrupted", "repair:done"],
            }
            for run in runs.values():
                assert bench.workflow_fields(run)[-1:] == [None]
                assert bench.system.reports(run)[0] == "started"
                assert len(bench.system.reports(run)) == 2


async def test_a_visit_that_was_interrupted_three_times_fails(tmp_path: Path) -> None:
    home, settings = command_home(tmp_path / "home", lifecycle="one_shot"), kept(tmp_path)
    async with open_system(tmp_path, TIMINGS) as system, waiter(tmp_path) as held:
        text = workflow(
            first={"command": shell("true"), "on_done": "work"},
            work={
                "command": shell('echo $$ > "$1"; read answer < "$2"', str(held.started.path), str(held.gate.path)),
                "on_interrupted": "repeat",
                "on_done": "completed",
            },
        )
        flow = loaded(tmp_path, text)
        async with broken_off(system, home, flow, **settings):
            run = await system.submit(AGENT)
            await held.started.pid()
        for _ in range(2):
            async with broken_off(system, home, **settings):
                await held.started.pid()
        async with system.running(home, **settings):
            ended = await system.end(run)
        assert (ended.status, ended.error) == (
            "failed",
            "interrupted: the runner's process ended during the state 'work' of the workflow, 3 times; it is not "
            "continued again",
        )
        visits = visits_in(settings["state_dir"], run)
        assert [(visit.state, visit.ending, visit.interruptions) for visit in visits] == [
            ("first", "done", 0),
            ("work", "failed", 3),
        ]


async def test_a_first_turn_whose_conversation_is_lost_begins_again(tmp_path: Path) -> None:
    """A persistent executor without `revive` cannot continue what ended with its process."""
    home, settings = command_home(tmp_path / "home"), kept(tmp_path)
    async with open_system(tmp_path, TIMINGS) as system, waiter(tmp_path) as held:
        flow = loaded(tmp_path, interruptible("flow", held, "repeat"))
        async with broken_off(system, home, flow, **settings):
            run = await system.submit(AGENT)
            await held.started.pid()
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, settings["state_dir"])
            await held.started.pid()
            held.gate.write_line()
            assert (await bench.completes(run))["message"]["mode"] == "start"
            assert len(set(bench.binds(run))) == 2


async def test_a_turn_that_waits_for_a_limit_continues_in_the_next_process(tmp_path: Path) -> None:
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=2, usage=({"input_tokens": 3},)), Says("1", usage=({"input_tokens": 4},)))
        home, settings = limited_home(tmp_path / "home", api, lifecycle="one_shot"), kept(tmp_path)
        flow = loaded(
            tmp_path,
            workflow(
                first={"turn": {"prompt": "one", "config": {"extra": 1}}, "timeout_s": 1.9, "on_done": "second"},
                second={"turn": {"prompt": "two"}, "on_done": "completed"},
            ),
        )
        async with system.running(home, workflow=flow, **settings) as first:
            run = await system.submit(AGENT, prompt="ignored")
            await system.state(run, "waiting_for_limit")
            assert await first.drain() == "stopped"
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, settings["state_dir"])
            await bench.completes(run)
            assert [(asked.mode, asked.prompt) for asked in api.asked] == [
                ("start", "one"),
                ("resume", CONTINUE_PROMPT),
                ("resume", "two"),
            ]
            assert bench.path(run) == ["first:done", "second:done"]
            assert await bench.results(run) == ["done"]
            assert bench.system.reports(run) == ["started", "completed"]


async def test_runs_whose_waits_are_over_wait_for_a_slot_in_the_next_process_too(tmp_path: Path) -> None:
    home, settings = command_home(tmp_path / "home"), kept(tmp_path, max_runs=1)
    async with open_system(tmp_path, TIMINGS) as system, waiter(tmp_path) as held:
        flow = loaded(
            tmp_path,
            workflow(
                ask={"approval": {"question": "Begin?"}, "on_done": "work", "on_denied": "failed"},
                work={
                    "turn": steps(["bind"], *held_by(held)),
                    "on_interrupted": "repeat",
                    "on_done": "completed",
                },
            ),
        )
        async with broken_off(system, home, flow, **settings):
            bench = WorkflowBench(system, None, settings["state_dir"])
            runs = [await system.submit(AGENT) for _ in range(3)]
            for run in runs:
                await system.detail(run, "ask")
            for run in runs:
                await bench.decide(run)
            await held.started.pid()
        async with system.running(home, **settings):
            for _ in runs:
                await held.started.pid()
                held.gate.write_line()
            for run in runs:
                assert (await system.end(run)).status == "completed"
        assert most_at_work(system, runs) == 1


def most_at_work(system: System, runs: list[RunCreated]) -> int:
    """Return how many of the runs were at work at the same time, as the journal has it."""
    steps: list[tuple[str, int]] = []
    for path in journals(system.folder / "state"):
        with closing(Reader(path)) as reader:
            for run in runs:
                steps += [
                    (step.at, (step.target == "executing") - (step.source == "executing"))
                    for step in reader.steps_of_run(run.run_id)
                ]
    return max(itertools.accumulate(change for _, change in sorted(steps)))


async def test_a_workflow_that_completes_after_a_restart_decides_how_its_session_ended(tmp_path: Path) -> None:
    home, settings = command_home(tmp_path / "home"), kept(tmp_path)
    flow = loaded(
        tmp_path,
        workflow(
            first={"turn": says("one", ["bind"]), "on_done": "ask"},
            ask={"approval": {"question": "Done?"}, "on_done": "completed", "on_denied": "failed"},
        ),
    )
    async with open_system(tmp_path, TIMINGS) as system:
        async with broken_off(system, home, flow, **settings):
            run = await system.submit(AGENT)
            await system.detail(run, "ask")
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, settings["state_dir"])
            await bench.enters(run, "ask", 2)
            await bench.decide(run)
            await bench.completes(run)
            assert await bench.results(run) == ["one"]
            assert await second.drain() == "stopped"
            assert await bench.session(run) == "finished"
            assert system.proxy.calls_for("POST", SESSION_STATUS) == []
