"""Each bundled workflow is killed, stopped, and exceeds a time limit in each of its states."""

import asyncio
import shutil
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.approvals import ApprovalAnswer
from fsm_runner.protocol.wire import Run, RunCreated
from fsm_runner.workflow.definition import Workflow
from fsm_runner.workflow.file import load_workflow
from tests.support.held_states import AFTER, BEFORE, LATE, HeldStates, place
from tests.support.program import REPOSITORY
from tests.support.repositories import AUTHOR, commit_all, git
from tests.support.runner import System, open_system
from tests.support.workflow_home import AGENT, NEEDS_FIX, NEEDS_TWO_LINES, workflow_home, write_program
from tests.support.workflows import broken_off, visits_in

NAMES = ("approve-first", "draft-and-review", "fan-out", "fix-until-green")
TIMINGS = Timings(stale_after_s=0.2)
"""The coordinator soon accepts the successor of a runner that was killed."""
ENDED = {"fan-out": ("work", "merge", "resolve")}
"""The states after whose activity the runner is killed, if these are not all: the others are as in another workflow."""
REFERENCE = "reference"
"""The project directory of a run that is not held."""


def definition(name: str) -> Workflow:
    return load_workflow(REPOSITORY / "workflows" / f"{name}.toml").definition


def active_states(name: str) -> list[str]:
    return [state for state, each in definition(name).states.items() if each.activity is not None]


def new_project(folder: Path, name: str) -> Path:
    """A project in which a run of the workflow visits each state with an activity."""
    folder.mkdir(parents=True)
    write_program(folder / "verify", NEEDS_FIX if name == "fan-out" else NEEDS_TWO_LINES)
    if name == "fan-out":
        (folder / "conflict").touch()
        git(folder, "init", "--quiet", "--initial-branch=main")
        commit_all(folder)
    return folder


class Bench:
    """Runs of one workflow, by the name of their project directory."""

    def __init__(self, folder: Path, name: str, system: System) -> None:
        self._folder = folder
        self._project = new_project(folder / "template", name)
        self._system = system
        self.runs: dict[str, RunCreated] = {}

    async def submit(self, places: Iterable[str]) -> None:
        for each in places:
            project = shutil.copytree(self._project, self._folder / "projects" / each)
            self.runs[each] = await self._system.submit_in(str(project), AGENT, prompt="Write.")

    async def ends(self, unapproved: Collection[str] = ()) -> dict[str, Run]:
        """Return all runs when they have ended. The approvals of all others than `unapproved` are given."""
        ids = {self.runs[each].run_id for each in unapproved if each in self.runs}
        desk, asked = self._system.server.coordinator.approvals, set(ids)
        async with asyncio.TaskGroup() as group:
            ending = {each: group.create_task(self._system.end(run)) for each, run in self.runs.items()}
            while not all(task.done() for task in ending.values()):
                for approval in (await desk.pending()).approvals:
                    if approval.run_id not in asked:
                        asked.add(approval.run_id)
                        group.create_task(desk.decide(approval.run_id, ApprovalAnswer(approved=True), "ada"))
                await asyncio.wait(ending.values(), timeout=0.02)
        return {each: task.result() for each, task in ending.items()}

    def path(self, name: str) -> list[str]:
        return [f"{visit.state}:{visit.ending}" for visit in visits_in(self._folder / "state", self.runs[name])]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(
        f"[user]\nname = {AUTHOR['GIT_AUTHOR_NAME']}\nemail = {AUTHOR['GIT_AUTHOR_EMAIL']}\n"
    )
    return {"state_dir": tmp_path / "state", "grace_period_s": 0.1}


@pytest.mark.parametrize("name", NAMES)
async def test_a_kill_in_any_state_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], name: str
) -> None:
    home, held = workflow_home(tmp_path / "home", name), HeldStates(monkeypatch)
    places = [place(state, BEFORE) for state in active_states(name)]
    places += [place(state, AFTER) for state in ENDED.get(name, active_states(name))]
    async with open_system(tmp_path, TIMINGS) as system:
        bench = Bench(tmp_path, name, system)
        async with broken_off(system, home, **settings):
            await bench.submit([*places, REFERENCE])
            approving = asyncio.create_task(bench.ends(unapproved=[place("ask", BEFORE)]))
            await held.reached(places)
            approving.cancel()
        async with system.running(home, **settings):
            ended = await bench.ends()
        assert {each: run.error for each, run in ended.items()} == dict.fromkeys(ended)
        assert {each: bench.path(each) for each in places} == dict.fromkeys(places, bench.path(REFERENCE))
        assert {step.partition(":")[0] for step in bench.path(REFERENCE)} == set(active_states(name))


@pytest.mark.parametrize("name", NAMES)
async def test_a_stop_in_any_state_enters_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], name: str
) -> None:
    home, held = workflow_home(tmp_path / "home", name), HeldStates(monkeypatch)
    places = {place(state, BEFORE): state for state in active_states(name)}
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(open_system(tmp_path))
        await stack.enter_async_context(system.running(home, **settings))
        bench = Bench(tmp_path, name, system)
        await bench.submit(places)
        ending = asyncio.create_task(bench.ends(unapproved=[place("ask", BEFORE)]))
        await held.reached(places)
        for run in bench.runs.values():
            await system.api.stop_run(run.run_id)
        assert {each: run.status for each, run in (await ending).items()} == dict.fromkeys(places, "stopped")
        assert {each: bench.path(each)[-1] for each in places} == {each: f"{at}:stopped" for each, at in places.items()}


@pytest.mark.parametrize("name", NAMES)
async def test_a_time_limit_in_any_state_leads_to_the_declared_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], name: str
) -> None:
    home, states = workflow_home(tmp_path / "home", name), definition(name).all_states
    HeldStates(monkeypatch)
    places = {place(state, LATE): state for state in active_states(name)}
    async with open_system(tmp_path) as system, system.running(home, **settings):
        bench = Bench(tmp_path, name, system)
        await bench.submit(places)
        ended = await bench.ends(unapproved=[place("ask", LATE)])
    for each, state in places.items():
        ending = "denied" if states[state].approval else "timeout"
        target = next((branch.to for branch in states[state].branches(ending)), "failed")
        (at, *_) = [visit for visit in visits_in(tmp_path / "state", bench.runs[each]) if visit.state == state]
        assert (at.ending, at.target) == (ending, target)
        assert ended[each].status == ("failed" if states[target].final else "completed"), ended[each].error
