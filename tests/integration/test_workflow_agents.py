"""The activity `agent`, with a real coordinator and a real runner that executes the children."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.run_waiter import WaitPolicy
from fsm_runner.executors.children import ChildRefused, ChildStarted
from fsm_runner.journal.journal import JournalUnwritable
from fsm_runner.protocol.wire import JsonObject, Run, RunCreated, RunRequest
from fsm_runner.runtime.workflow.agents import AgentStep
from fsm_runner.runtime.workflow.children import child_session_id
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.runtime.workflow.worktrees import FOLDER
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.workflow.definition import Activity, Agent
from fsm_runner.workflow.values import TEXT_LIMIT_BYTES
from tests.support.faults import Kind, hold, hold_request, lost_answer, reset, status
from tests.support.repositories import git, new_repository
from tests.support.runner import System, Waiter, running, waiter
from tests.support.watch import PATIENCE_S
from tests.support.workflow_steps import PARENT, new_context, new_visit

QUICK = WaitPolicy(look_up=RetryPolicy(base_s=0.01, cap_s=0.05), stream=RetryPolicy(base_s=0.01, cap_s=0.05))
RUN = r"/runs/run_[^/]+"
HOSTILE = [
    "${item} $(id) `id`",
    'it\'s "quoted" \\',
    "--option",
    "-",
    "\x1b[31mred",
    "line\nbreak",
    "é\u202e\U0001f600",
    "",
]


class Templates:
    """The arguments of children, in place of an interpreter."""

    def __init__(self, agent: Agent, each: list[Any] | None, parameters: Callable[[Any, int], JsonObject]) -> None:
        self.agent, self.items, self.parameters = agent, each, parameters

    def each(self) -> list[Any] | None:
        return self.items

    def arguments(self, item: object = None, index: int | None = None) -> Activity:
        return msgspec.structs.replace(self.agent, parameters=self.parameters(item, index or 0))


def said_by(item: Any, _: int) -> JsonObject:
    return {"text": "hello" if item is msgspec.UNSET else item}


class IgnoringApi(CoordinatorApi):
    """A coordinator that chooses the ids of all sessions itself."""

    async def create_run(self, request: RunRequest) -> RunCreated:
        return await super().create_run(msgspec.structs.replace(request, session_id=None))


class Workflow:
    """What the runner of a workflow does with a step of it, and what a restart of that runner leaves."""

    def __init__(self, system: System, api: CoordinatorApi, folder: Path) -> None:
        self.system, self.folder = system, folder
        self.saved: list[bytes] = []
        self.context = new_context(api, waits=QUICK)
        self.open: list[AgentStep] = []

    def step(
        self,
        name: str,
        parameters: Callable[[Any, int], JsonObject] | None = None,
        *,
        each: list[Any] | None = None,
        number: int = 1,
        schema: JsonObject | None = None,
        max_children: int | None = None,
        **fields: Any,
    ) -> AgentStep:
        """Return a step as a process of the runner creates it, with the progress that an earlier one has saved."""
        agent = Agent(name=name, **fields)
        templates = Templates(agent, each, parameters or said_by)
        progress = self.saved[-1] if self.saved else None
        visit: Visit = new_visit(
            "agent", agent, self.folder, number=number, schema=schema, progress=progress, save=self.saved.append
        )
        step = AgentStep(visit, self.context, templates, max_children=max_children)
        self.open.append(step)
        return step

    async def children(self) -> list[Run]:
        return await self.system.api.children(PARENT.session_id)

    async def stop_first(self, gate: Waiter) -> None:
        """Return when two children that wait for the gate have begun, and the first has been stopped."""
        for _ in range(2):
            await gate.started.line()
        first = child_session_id(PARENT.run_id, "work", 1, 0)
        (run_id,) = [child.run_id for child in await self.children() if child.session_id == first]
        await self.system.api.stop_run(run_id)
        await self.system.proxy.answered("POST", f"/runner/runs/{run_id}/stopped")

    async def restarts(self) -> None:
        """End all steps as the end of the runner's process does."""
        for step in self.open:
            await step.aclose()
        self.open.clear()


@asynccontextmanager
async def workflow(
    folder: Path, api: type[CoordinatorApi] = CoordinatorApi, **overrides: Any
) -> AsyncIterator[Workflow]:
    async with running(folder, **overrides) as (system, _), api(system.proxy.url) as parent_api:
        parent = Workflow(system, parent_api, folder / "project")
        try:
            yield parent
        finally:
            system.proxy.heal()
            await parent.restarts()
            await parent.context.checker.aclose()


async def ended(step: AgentStep) -> Ended:
    return await asyncio.wait_for(step.perform(), PATIENCE_S)


def said(text: str) -> str:
    return f'{{"said":"{text}"}}'


async def test_the_result_of_a_child_is_the_value(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("say"))
        session_id = child_session_id("run_parent", "work", 1, 0)
        assert end == Ended("done", {"ok": True, "error": "", "result": said("hello"), "session_id": session_id})
        (child,) = await parent.children()
        assert (child.session_id, child.parent_session_id) == (session_id, PARENT.session_id)
        assert (child.agent_name, child.project_dir) == ("say", str(parent.folder))


async def test_a_child_that_fails_is_an_error(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("fail", lambda *_: {"code": 3}))
    assert end.ending == "error" and end.value["ok"] is False
    assert end.value["error"] == "fail: it broke\n--- stdout ---\non stdout\n(exit code 3)"


async def test_data_exists_with_a_schema(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("say", schema={"type": "object"}))
    assert end.value["data"] == {"said": "hello"}


async def test_items_are_in_the_order_of_the_list(tmp_path: Path) -> None:
    async with workflow(tmp_path, max_runs=4) as parent:
        end = await ended(parent.step("say", each=["a", "b", "c"], schema={"type": "object"}))
    assert end.ending == "done" and end.value["failed"] == 0
    assert [item["item"] for item in end.value["items"]] == ["a", "b", "c"]
    assert [item["data"] for item in end.value["items"]] == [{"said": text} for text in "abc"]


async def test_hostile_items_reach_the_child_as_they_are(tmp_path: Path) -> None:
    async with workflow(tmp_path, max_runs=8) as parent:
        end = await ended(parent.step("say", each=HOSTILE))
        children = {child.session_id: child for child in await parent.children()}
    assert end.ending == "done" and [item["item"] for item in end.value["items"]] == HOSTILE
    started = [children[item["session_id"]] for item in end.value["items"]]
    assert [child.parameters["text"] for child in started] == HOSTILE
    assert all(text in item["result"] for text, item in zip(HOSTILE, end.value["items"], strict=True) if text == "-")


async def test_the_long_results_of_many_children_are_shortened(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("flood", lambda *_: {"bytes": 10_000_000}, each=[1], schema={}))
    (item,) = end.value["items"]
    for text in (item["result"], item["data"]):
        assert text.startswith("xxx") and "bytes left out" in text and len(text.encode()) <= TEXT_LIMIT_BYTES


async def test_all_children_end_before_a_failure_counts(tmp_path: Path) -> None:
    async with workflow(tmp_path, max_runs=2) as parent, waiter(tmp_path) as gate:
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters, each=[0, 1])))
        await parent.stop_first(gate)
        assert not performing.done()
        gate.gate.write_line()
        end = await performing
    assert end.ending == "error" and end.value["failed"] == 1
    assert end.value["error"].startswith("wait: 1 of 2 children failed, and 0 may; child 0: ")
    assert [item["ok"] for item in end.value["items"]] == [False, True]


async def test_some_children_may_fail(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("fail", lambda item, _: {"code": item}, each=[0, 1, 1], may_fail=2))
    assert (end.ending, end.value["ok"], end.value["failed"]) == ("done", True, 2)


async def test_an_item_whose_data_does_not_match_has_failed(tmp_path: Path) -> None:
    schema = {"properties": {"said": {"const": "a"}}}
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("say", each=["a", "b"], schema=schema))
    first, second = end.value["items"]
    assert first["ok"] and not second["ok"] and "data" not in second
    assert second["error"].startswith("its data does not match the schema of the state: $.said")


async def test_as_many_children_work_as_the_state_permits(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent, AsyncExitStack() as stack:
        gates = [await stack.enter_async_context(waiter(tmp_path, name)) for name in ("one", "two")]
        step = parent.step("wait", lambda _, index: gates[index].parameters, each=[1, 2], at_once=1)
        performing = asyncio.create_task(ended(step))
        await gates[0].started.line()
        assert len(await parent.children()) == 1
        gates[0].gate.write_line()
        await gates[1].started.line()
        gates[1].gate.write_line()
        assert (await performing).ending == "done"


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [("unknown", {}, "Agent not found: unknown"), ("echo", {}, "Agent not found")],
)
async def test_a_refused_child_is_an_error(tmp_path: Path, name: str, parameters: JsonObject, reason: str) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step(name, lambda *_: parameters))
        assert end.ending == "error" and reason in end.value["error"] and end.value["session_id"] == ""
        assert await parent.children() == []


async def test_the_bounds_of_children_apply(tmp_path: Path) -> None:
    started: list[str] = []

    @asynccontextmanager
    async def one_child(session_id: str) -> AsyncIterator[ChildStarted]:
        assert session_id == PARENT.session_id
        if started:
            raise ChildRefused("no more")
        yield started.append

    async with workflow(tmp_path) as parent:
        parent.context = msgspec.structs.replace(parent.context, child_bounds=one_child)
        end = await ended(parent.step("say", each=["a", "b"]))
        assert [item["error"] for item in end.value["items"]] == ["", "no more"]
        assert started == [child.session_id for child in await parent.children()]


async def test_more_children_than_the_workflow_may_start_are_refused_before_the_first(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("say", each=["a", "b"], max_children=1))
        assert end.ending == "error" and (end.value["items"], end.value["failed"]) == ([], 0)
        assert "2 children are wanted, but the workflow may start only 1 more" in end.value["error"]
        assert await parent.children() == [] and parent.saved == []


async def test_an_empty_list_needs_no_child(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("say", each=[]))
    assert end == Ended("done", {"ok": True, "error": "", "items": [], "failed": 0})


# Outages of the coordinator, and ends of the runner's process.


@pytest.mark.parametrize("api", [CoordinatorApi, IgnoringApi])
@pytest.mark.parametrize("fault", [lost_answer(), status(503), reset()], ids=lambda kind: kind.name)
async def test_a_child_whose_creation_has_no_answer_is_not_started_twice(
    tmp_path: Path, fault: Kind, api: type[CoordinatorApi]
) -> None:
    async with workflow(tmp_path, api) as parent, waiter(tmp_path) as gate:
        parent.system.proxy.fault("POST", "/runs", fault)
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters)))
        await gate.started.line()
        gate.gate.write_line()
        assert (await performing).value["result"] == '{"heard":"go"}'
        assert len(await parent.children()) == 1


@pytest.mark.parametrize("api", [CoordinatorApi, IgnoringApi])
@pytest.mark.parametrize("arrives", [True, False])
async def test_after_an_end_before_the_answer_the_child_is_found(
    tmp_path: Path, api: type[CoordinatorApi], arrives: bool
) -> None:
    async with workflow(tmp_path, api) as parent, waiter(tmp_path) as gate:
        fault = hold(asyncio.Event()) if arrives else hold_request(asyncio.Event())
        parent.system.proxy.fault("POST", "/runs", fault)
        step = parent.step("wait", lambda *_: gate.parameters)
        performing = asyncio.create_task(step.perform())
        await (parent.system.proxy.carried_out if arrives else parent.system.proxy.seen)("POST", "/runs")
        await parent.restarts()
        assert len(await parent.children()) == arrives
        await asyncio.wait([performing])
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters)))
        await gate.started.line()
        gate.gate.write_line()
        assert (await performing).ending == "done"
        assert len(await parent.children()) == 1


async def test_a_lost_child_is_not_taken_for_an_equal_one_that_is_known(tmp_path: Path) -> None:
    async with workflow(tmp_path, IgnoringApi, max_runs=2) as parent, waiter(tmp_path) as gate:
        parent.system.proxy.fault("POST", "/runs", Kind("none", lambda forward: forward(), genuine=True))
        parent.system.proxy.fault("POST", "/runs", lost_answer())
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters, each=[1, 1])))
        for _ in range(2):
            await gate.started.line()
        for _ in range(2):
            gate.gate.write_line()
        items = (await performing).value["items"]
        assert {item["session_id"] for item in items} == {child.session_id for child in await parent.children()}
        assert len(await parent.children()) == 2


async def test_children_without_a_free_event_stream_are_looked_up(tmp_path: Path) -> None:
    async with workflow(tmp_path, max_runs=2) as parent, waiter(tmp_path) as gate:
        parent.context = msgspec.structs.replace(parent.context, streams=asyncio.Semaphore(1))
        proxy = parent.system.proxy
        # The proxy forwards no stream before its end.
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters, each=[1, 2])))
        for _ in range(2):
            await gate.started.line()
        await proxy.seen("GET", RUN, len(proxy.calls_for("GET", RUN)) + 10)
        assert len(proxy.calls_for("GET", "/sse/sessions")) == 1
        for _ in range(2):
            gate.gate.write_line()
        assert (await performing).ending == "done"


async def test_after_an_end_during_the_wait_all_children_are_found(tmp_path: Path) -> None:
    async with workflow(tmp_path, max_runs=2) as parent, waiter(tmp_path) as gate:
        first = parent.step("wait", lambda *_: gate.parameters, each=[0, 1])
        performing = asyncio.create_task(first.perform())
        await parent.stop_first(gate)
        await parent.restarts()
        await asyncio.wait([performing])
        gate.gate.write_line()
        second = parent.step("wait", lambda *_: gate.parameters, each=[0, 1])
        end = await ended(second)
        assert [item["ok"] for item in end.value["items"]] == [False, True] and second.started == 2
        assert len(await parent.children()) == 2


async def test_a_child_that_ended_before_it_was_found_is_not_started_again(tmp_path: Path) -> None:
    async with workflow(tmp_path, IgnoringApi) as parent:
        parent.system.proxy.fault("POST", "/runs", hold(asyncio.Event()))
        step = parent.step("say")
        performing = asyncio.create_task(step.perform())
        await parent.system.proxy.answered("POST", r"/runner/runs/.*/completed")
        await parent.restarts()
        await asyncio.wait([performing])
        end = await ended(parent.step("say"))
        (child,) = await parent.children()
        assert end.ending == "error" and f"run {child.run_id} may be this child or an earlier one" in end.value["error"]


async def test_a_coordinator_that_honours_ids_permits_equal_children_of_several_visits(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        assert (await ended(parent.step("say"))).ending == "done"
        parent.saved.clear()
        parent.system.proxy.fault("POST", "/runs", reset())
        assert (await ended(parent.step("say", number=2))).ending == "done"
        assert len(await parent.children()) == 2


async def test_a_session_of_the_chosen_id_without_a_run_is_an_honest_error(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        session_id = child_session_id("run_parent", "work", 1, 0)
        other = RunRequest(type="start_session", agent_name="say", parameters={"text": "other"}, session_id=session_id)
        await parent.system.api.create_run(other)
        end = await ended(parent.step("say"))
        assert end.ending == "error" and f"Session '{session_id}' already exists" in end.value["error"]
        assert await parent.children() == []


async def test_an_outage_does_not_end_the_wait(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters)))
        await gate.started.line()
        parent.system.proxy.fault("GET", RUN, reset(), None)
        parent.system.proxy.fault("GET", "/sse/sessions", reset(), None)
        gate.gate.write_line()
        await parent.system.proxy.answered("POST", r"/runner/runs/.*/completed")
        await parent.system.proxy.seen("GET", RUN, len(parent.system.proxy.calls_for("GET", RUN)) + 2)
        assert not performing.done()
        parent.system.proxy.heal()
        assert (await performing).ending == "done"


# Stops.


async def test_a_stop_stops_all_children_and_waits_for_their_ends(tmp_path: Path) -> None:
    async with workflow(tmp_path, max_runs=2) as parent, waiter(tmp_path) as gate:
        step = parent.step("wait", lambda *_: gate.parameters, each=[1, 2, 3])
        performing = asyncio.create_task(ended(step))
        for _ in range(2):
            await gate.started.line()
        await parent.system.proxy.answered("POST", "/runs", 3)
        assert await asyncio.wait_for(step.stop(), PATIENCE_S) == "shutdown"
        assert [child.status for child in await parent.children()] == ["stopped"] * 3
        end = await performing
        assert end.value["failed"] == 3 and {item["error"] for item in end.value["items"]} == {"the child was stopped"}


async def test_a_stop_after_an_end_of_the_runner_stops_the_children_of_the_earlier_process(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        performing = asyncio.create_task(parent.step("wait", lambda *_: gate.parameters).perform())
        await gate.started.line()
        await parent.restarts()
        await asyncio.wait([performing])
        (child,) = await parent.children()
        assert child.status == "running"
        await parent.step("wait", lambda *_: gate.parameters).stop()
        assert [child.status for child in await parent.children()] == ["stopped"]


async def test_a_stop_finds_the_child_that_is_being_created(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        released = asyncio.Event()
        parent.system.proxy.fault("POST", "/runs", hold(released))
        step = parent.step("wait", lambda *_: gate.parameters, each=[1, 2])
        performing = asyncio.create_task(step.perform())
        await gate.started.line()
        performing.cancel()  # as the run does before it stops its step
        await asyncio.wait([performing])
        stopping = asyncio.create_task(step.stop())
        await asyncio.sleep(0)
        released.set()
        await asyncio.wait_for(stopping, PATIENCE_S)
        assert [child.status for child in await parent.children()] == ["stopped"]


async def test_a_step_that_is_stopped_before_its_begin_starts_nothing(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        step = parent.step("say", each=["a"])
        await step.stop()
        assert (await ended(step)).value["failed"] == 1
        assert await parent.children() == []


async def test_a_stop_gives_up_when_the_coordinator_stays_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsm_runner.runtime.workflow.agents.STOP_LIMIT_S", 0.2)
    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        step = parent.step("wait", lambda *_: gate.parameters)
        performing = asyncio.create_task(step.perform())
        await gate.started.line()
        parent.system.proxy.fault("POST", RUN + "/stop", reset(), None)
        await asyncio.wait_for(step.stop(), PATIENCE_S)
        assert not performing.done()
        await step.aclose()
        await asyncio.wait([performing])


async def test_a_fault_that_ends_the_run_stops_the_children_that_have_begun(tmp_path: Path) -> None:
    flushed = 0

    async def flush() -> None:
        nonlocal flushed
        flushed += 1
        if flushed > 2:  # before and after the creation of the first child
            raise JournalUnwritable(None, "the disk is full")

    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        parent.context = msgspec.structs.replace(parent.context, flush=flush)
        step = parent.step("wait", lambda *_: gate.parameters, each=[1, 2])
        with pytest.raises(JournalUnwritable):
            await asyncio.wait_for(step.perform(), PATIENCE_S)
        assert [child.status for child in await parent.children()] == ["stopped"]


async def test_a_child_that_another_client_stops_has_failed(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        performing = asyncio.create_task(ended(parent.step("wait", lambda *_: gate.parameters)))
        await gate.started.line()
        (child,) = await parent.children()
        await parent.system.api.stop_run(child.run_id)
        end = await performing
    assert (end.ending, end.value["error"]) == ("error", "wait: the child was stopped")


# Worktrees.


async def test_children_work_in_worktrees_and_only_those_with_changes_stay(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        new_repository(parent.folder)
        files = [tmp_path / "outside", "inside"]
        end = await ended(parent.step("touch", lambda item, _: {"file": str(item)}, each=files, worktree=True))
        first, second = end.value["items"]
        assert (first["ok"], first["branch"], first["worktree"]) == (True, "", "")
        assert second["branch"] == "fsm-runner/run_parent-work-1-1"
        assert second["worktree"] == str(parent.folder / FOLDER / "run_parent-work-1-1")
        assert (Path(second["worktree"]) / "inside").exists() and not (parent.folder / "inside").exists()
        assert git(parent.folder, "branch", "--list", "fsm-runner/*").split() == ["+", second["branch"]]


async def test_the_worktree_of_a_child_that_failed_stays(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        new_repository(parent.folder)
        end = await ended(parent.step("fail", lambda *_: {"code": 1}, worktree=True))
        assert end.ending == "error" and (Path(end.value["worktree"]) / "tracked").exists()


async def test_the_worktree_of_a_child_that_was_refused_is_removed(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        new_repository(parent.folder)
        end = await ended(parent.step("unknown", worktree=True))
        assert (end.ending, end.value["branch"], end.value["worktree"]) == ("error", "", "")
        assert git(parent.folder, "branch", "--list", "fsm-runner/*") == ""


async def test_a_child_without_a_repository_is_not_started(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent:
        end = await ended(parent.step("say", worktree=True))
        assert end.ending == "error" and "is in no git repository" in end.value["error"]
        assert await parent.children() == [] and (end.value["branch"], end.value["worktree"]) == ("", "")


async def test_after_an_end_of_the_runner_the_child_works_in_the_same_worktree(tmp_path: Path) -> None:
    async with workflow(tmp_path) as parent, waiter(tmp_path) as gate:
        new_repository(parent.folder)
        performing = asyncio.create_task(parent.step("wait", lambda *_: gate.parameters, worktree=True).perform())
        await gate.started.line()
        await parent.restarts()
        await asyncio.wait([performing])
        worktree = parent.folder / FOLDER / "run_parent-work-1-0"
        (worktree / "new").write_text("work of the child")
        gate.gate.write_line()
        end = await ended(parent.step("wait", lambda *_: gate.parameters, worktree=True))
        assert end.value["worktree"] == str(worktree) and (worktree / "new").exists()
