"""Whole workflows with children: a runner that follows the workflow, and another one that executes the children."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import PROCEDURAL_COMMAND
from fsm_runner.coordinator_server.store.interface import Reporter
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import Agent, Run, RunCreated
from tests.support.faults import hold, hold_request
from tests.support.home import make_home
from tests.support.program import Program, environment, program
from tests.support.runner import System, Waiter, open_system, waiter

TIMINGS = Timings(stale_after_s=0.2)
"""The coordinator soon accepts the successor of a runner that was killed."""
ONE = """
name = "work"
initial = "work"
params = { started = "string", gate = "string" }
result = { text = "${work.result}" }

[states.work]
agent = { name = "wait", parameters = { started = "${params.started}", gate = "${params.gate}" } }
timeout_s = 600
on_done = "completed"
"""
MANY = """
name = "work"
initial = "work"
params = { texts = "list" }
result = { data = { items = "${work.items}" } }

[states.work]
agent = { name = "say", parameters = { text = "${item}" }, each = "${params.texts}" }
timeout_s = 600
on_done = "completed"
"""


def parent_home(folder: Path, workflow: str) -> Path:
    """Write a home with a profile whose only agent, `parent`, follows this workflow."""
    executor = folder / Path(PROCEDURAL_COMMAND).parent
    agents, profiles, workflows = executor / "agents/parents", folder / "profiles", folder / "workflows"
    for each in (agents, profiles, workflows):
        each.mkdir(parents=True)
    write_parent(agents)
    profile = {"type": "procedural", "command": PROCEDURAL_COMMAND, "agents_dir": str(agents.relative_to(folder))}
    (profiles / "parents.json").write_bytes(msgspec.json.encode(profile))
    (workflows / "work.toml").write_text(workflow)
    return folder


def write_parent(agents: Path) -> Agent:
    (command := agents / "parent").write_text("#!/bin/sh\n")
    command.chmod(0o755)
    where = str(command.relative_to(agents.parents[1]))
    parent = Agent(name="parent", command=where, parameters_schema={"type": "object"}, workflow="work")
    (agents / "parent.json").write_bytes(msgspec.json.encode(parent))
    return parent


class Parents:
    """The runner of the workflow as a program, next to a runner in this process that executes the children."""

    def __init__(self, system: System, folder: Path, workflow: str) -> None:
        self.system, self.folder = system, folder
        self.home = parent_home(folder / "parents", workflow)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Program]:
        arguments = ("-x", "parents", "-c", self.system.proxy.url)
        places = ("--project-dir", str(self.folder / "project"), "--state-dir", str(self.folder / "state"))
        async with program(self.folder, environment(self.home), *arguments, *places) as runner:
            yield runner

    async def submit(self, gate: Waiter) -> RunCreated:
        return await self.system.submit("parent", **gate.parameters)

    async def end(self, run: RunCreated) -> Run:
        path = f"/runner/runs/{run.run_id}/(completed|failed|stopped)"
        await self.system.proxy.answered("POST", path)
        return await self.system.api.run(run.run_id)

    async def children(self, run: RunCreated) -> list[Run]:
        return await self.system.api.children(run.session_id)


@asynccontextmanager
async def parents(folder: Path, workflow: str = ONE) -> AsyncIterator[tuple[Parents, Waiter]]:
    home = make_home(folder / "home")
    async with open_system(folder, TIMINGS) as system, waiter(folder) as gate, system.running(home):
        yield Parents(system, folder, workflow), gate


async def is_online(both: Parents, count: int = 2) -> None:
    """Return when the runner of the workflow has registered; the runner of the children is the first."""
    await both.system.proxy.answered("POST", "/runner/register", count)


@asynccontextmanager
async def whole(folder: Path, workflow: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    """A runner with one slot, whose agent `parent` follows the workflow, and which executes the children too."""
    profile = make_home(folder / "home")
    (folder / "home/workflows").mkdir()
    (folder / "home/workflows/work.toml").write_text(workflow)
    monkeypatch.setenv(HOME_VARIABLE, str(folder / "home"))
    parent = write_parent(profile.agent_files["say"].parent)
    files = {**profile.agent_files, "parent": profile.agent_files["say"].with_name("parent.json")}
    profile = msgspec.structs.replace(profile, agents=(*profile.agents, parent), agent_files=files)
    # The poll that the runner holds could bring a run, so the workflow continues when the poll has ended.
    async with open_system(folder, Timings(poll_timeout_s=0.3)) as system, system.running(profile, max_runs=1):
        yield system


async def test_one_slot_is_enough_for_a_workflow_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, MANY, monkeypatch) as system:
        run = await system.submit("parent", texts=["a", "b", "c"])
        ended = await system.end(run)
        assert (ended.status, ended.error) == ("completed", None)
        data = await system.result(run)
        assert data is not None and [item["result"] for item in data["items"]] == [f'{{"said":"{x}"}}' for x in "abc"]
        assert system.states[run.run_id].count("waiting") == 1


async def test_the_children_of_all_visits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = MANY[MANY.index("[states.work]") :].replace("states.work", "states.more")
    first = MANY.replace('on_done = "completed"', 'on_done = "more"')
    workflow = first.replace("params =", "budget = { max_children = 3 }\nparams =") + more
    async with whole(tmp_path, workflow, monkeypatch) as system:
        run = await system.submit("parent", texts=["a", "b"])
        error = "2 children are wanted, but the workflow may start only 1 more (budget.max_children)"
        assert (await system.end(run)).error == error
        assert len(await system.api.children(run.session_id)) == 2


@pytest.mark.parametrize("moment", ["before the creation", "before the answer", "during the wait"])
async def test_a_runner_that_is_killed_finds_its_child_again(tmp_path: Path, moment: str) -> None:
    async with parents(tmp_path) as (both, gate):
        never = asyncio.Event()
        async with both.running() as first:
            await is_online(both)
            run = await both.submit(gate)
            match moment:
                case "before the creation":
                    both.system.proxy.fault("POST", "/runs", hold_request(never))
                    await both.system.proxy.seen("POST", "/runs")
                case "before the answer":
                    both.system.proxy.fault("POST", "/runs", hold(never))
                    await both.system.proxy.carried_out("POST", "/runs")
                case _:
                    await gate.started.line()
            first.process.kill()
            await first.process.wait()
        async with both.running():
            if moment != "during the wait":
                await gate.started.line()
            await is_online(both, 3)
            gate.gate.write_line()
            ended = await both.end(run)
            assert (ended.status, ended.error) == ("completed", None)
            assert (await both.system.api.session_result(run.session_id)).result_text == '{"heard":"go"}'
            assert [child.status for child in await both.children(run)] == ["completed"]


async def test_a_drain_leaves_the_children_to_the_next_process(tmp_path: Path) -> None:
    async with parents(tmp_path) as (both, gate):
        async with both.running() as first:
            await is_online(both)
            run = await both.submit(gate)
            await gate.started.line()
            first.terminate()
            assert await first.exit_code() == 0
            assert [child.status for child in await both.children(run)] == ["running"]
        gate.gate.write_line()
        async with both.running():
            assert (await both.end(run)).status == "completed"
            assert len(await both.children(run)) == 1


async def test_a_stop_of_the_run_stops_its_children(tmp_path: Path) -> None:
    async with parents(tmp_path) as (both, gate), both.running():
        await is_online(both)
        run = await both.submit(gate)
        await gate.started.line()
        await both.system.api.stop_run(run.run_id)
        assert (await both.end(run)).status == "stopped"
        assert [child.status for child in await both.children(run)] == ["stopped"]


async def killed_during_the_wait(both: Parents, gate: Waiter) -> RunCreated:
    """Return a run whose runner was killed while the child worked."""
    async with both.running() as first:
        await is_online(both)
        run = await both.submit(gate)
        await gate.started.line()
        first.process.kill()
        await first.process.wait()
    return run


async def test_a_stop_that_a_restarted_runner_finds_stops_the_children(tmp_path: Path) -> None:
    async with parents(tmp_path) as (both, gate):
        run = await killed_during_the_wait(both, gate)
        await both.system.api.stop_run(run.run_id)
        async with both.running():
            assert (await both.end(run)).status == "stopped"
            assert [child.status for child in await both.children(run)] == ["stopped"]


async def test_a_run_that_ended_while_its_runner_was_away_leaves_no_children(tmp_path: Path) -> None:
    async with parents(tmp_path) as (both, gate):
        run = await killed_during_the_wait(both, gate)
        (child,) = await both.children(run)
        store = both.system.server.coordinator.store
        reporter = Reporter(runner_id=(await store.run_row(run.run_id)).runner_id or "")
        await store.report_failed(run.run_id, reporter, "lost")
        async with both.running():
            await both.system.proxy.answered("POST", f"/runner/runs/{child.run_id}/stopped")
            assert (await both.system.api.run(run.run_id)).status == "failed"


async def test_the_time_limit_of_the_state_stops_its_children(tmp_path: Path) -> None:
    workflow = ONE.replace("timeout_s = 600", "timeout_s = 1")
    async with parents(tmp_path, workflow) as (both, gate), both.running():
        await is_online(both)
        run = await both.submit(gate)
        await gate.started.line()
        ended = await both.end(run)
        assert (ended.status, ended.error) == ("failed", "work: not done within its time limit of 1 s")
        assert [child.status for child in await both.children(run)] == ["stopped"]
