"""A runner is killed with SIGKILL at the entry to each state of a workflow, and at each kind of record. The next one
continues where it was: nothing that has ended is done again, and the run ends once.

`tests/property/test_workflow_recovery.py` kills a model at all points.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.reader import Reader, journals
from fsm_runner.journal.records import VisitRecord
from fsm_runner.protocol.approvals import ApprovalAnswer
from tests.support.crash.fork_server import ForkServer
from tests.support.crash.harness import write_home
from tests.support.crash.kill_points import BEFORE, WRITE_PHASES, WRITTEN, KillPoint, RecordKillPoint
from tests.support.crash.restart import defects_after_restart, open_context, run_to_kill
from tests.support.crash.scenario import WORKFLOW, Scenario, ScenarioContext, let_it_finish
from tests.support.crash_model.workflow_replay import WorkflowCalls
from tests.support.workflows import results, shell, workflow

pytestmark = pytest.mark.slow

LOOK_INTERVAL_S = 0.05
AT_ONCE = 4
"""Kill points that run at the same time."""


def noted(state: str, then: str = "true") -> dict[str, Any]:
    """A command that appends the name of its state to the file of the run."""
    return {"command": shell(f'echo {state} >> "$1"; {then}', "${params.count}"), "on_interrupted": "repeat"}


EVERY_ACTIVITY = workflow(
    WORKFLOW,
    {"params": {"count": "string"}, "result": {"data": {"code": "${verify.exit_code}", "by": "${ask.by}"}}},
    draft={"turn": {}, "on_interrupted": "repeat", "on_done": "verify"},
    verify={**noted("verify", 'test -e "$1.fixed"'), "on_done": "rest", "on_error": "fix"},
    fix={**noted("fix", 'touch "$1.fixed"'), "max_visits": 2, "on_done": "verify"},
    rest={"wait": {"for_s": 0.1}, "on_done": "ask"},
    ask={"approval": {"question": "${verify.exit_code}?"}, "on_done": "work", "on_denied": "failed"},
    work={"agent": {"name": "child", "parameters": {"count": "${params.count}"}}, "on_done": "publish"},
    publish={**noted("publish"), "on_done": "completed"},
)
PATH = ["draft", "verify", "fix", "verify", "rest", "ask", "work", "publish"]
NOTED = Counter({"run": 1, "verify": 2, "fix": 1, "child": 1, "publish": 1})
"""How often each activity does its work."""
RARE = {"record_visit_interrupted": "the second kill", "record_visit_due": "a limit of the provider"}
"""The records that this workflow has only after something else."""
PROGRESSES = 6
"""The records of a turn, a wait, an approval with its decision, and a child before and after it was created."""
IN_VERIFY = RecordKillPoint("record_visit", 2, WRITTEN)
POINTS: list[tuple[KillPoint, KillPoint]] = [
    *((None, RecordKillPoint("record_visit", number, WRITTEN)) for number in range(1, len(PATH) + 1)),
    *(
        (None, RecordKillPoint(method, 2 if method == "record_visit_end" else 1, phase))
        for method in vars(WorkflowCalls)
        if method.startswith("record_") and method not in RARE
        for phase in WRITE_PHASES
    ),
    *((None, RecordKillPoint("record_visit_progress", number, WRITTEN)) for number in range(2, PROGRESSES + 1)),
    *((IN_VERIFY, RecordKillPoint("record_visit_interrupted", 1, phase)) for phase in (BEFORE, WRITTEN)),
]
"""Where the earlier runner is killed, and where the runner under test is."""


def scenario(first_kill_point: KillPoint = None) -> Scenario:
    return Scenario(
        name="every activity",
        workflow=EVERY_ACTIVITY,
        first_kill_point=first_kill_point,
        act_on_first_runner=let_it_finish,
        profile={"retry_interrupted": True},  # for the child
    )


@asynccontextmanager
async def approvals_granted(context: ScenarioContext) -> AsyncIterator[None]:
    desk = context.system.server.coordinator.approvals

    async def approve() -> None:
        while True:
            for each in (await desk.pending()).approvals:
                with suppress(FsmRunnerError):
                    await desk.decide(each.run_id, ApprovalAnswer(approved=True), "ada")
            await asyncio.sleep(LOOK_INTERVAL_S)

    approving = asyncio.create_task(approve(), name="the person who decides")
    try:
        yield
    finally:
        approving.cancel()
        await asyncio.wait([approving])


def visits_of(context: ScenarioContext) -> list[VisitRecord]:
    (path,) = journals(context.state_dir)
    with closing(Reader(path)) as reader:
        return [*reader.visits_of(context.run.run_id)]


def ends_of(visits: list[VisitRecord]) -> list[tuple[Any, ...]]:
    """Return what is the same for each run."""
    values = [{**msgspec.json.decode(visit.value or b"{}"), "session_id": ""} for visit in visits]
    return [(visit.state, visit.ending, visit.target, value) for visit, value in zip(visits, values, strict=True)]


async def defects_of_workflow(context: ScenarioContext, before: list[VisitRecord]) -> list[str]:
    after = visits_of(context)
    deadlines = {visit.number: visit.due_s for visit in after}
    defects = [f"visits of {path}" for path in [[visit.state for visit in after]] if path != PATH]
    defects += [f"{visit} was changed" for visit in before if visit.ended_at and visit not in after]
    defects += [f"{visit} has another deadline" for visit in before if visit.due_s != deadlines[visit.number]]
    if (sent := await results(context.system, context.run)) != [{"code": 0, "by": "ada"}]:
        defects.append(f"the results are {sent}")
    if len(children := await context.system.api.children(context.run.session_id)) != 1:
        defects.append(f"the children are {children}")
    again = Counter(context.count_file.read_text().split()) - NOTED
    name_of = {"draft": "run", "work": "child"}
    interrupted = {name_of.get(visit.state, visit.state) for visit in before if visit.ended_at is None}
    if set(again) - interrupted:
        defects.append(f"done again: {again}")
    return defects


async def defects_at(server: ForkServer, folder: Path, first: KillPoint, point: KillPoint) -> list[str]:
    async with open_context(scenario(first), folder, server) as context, approvals_granted(context):
        try:
            outcome = await run_to_kill(context, point)
            before = visits_of(context)
            defects = [] if outcome.was_killed else ["the kill point was never reached"]
            defects += await defects_after_restart(context)
            defects += await defects_of_workflow(context, before)
        except (AssertionError, TimeoutError, FsmRunnerError) as error:
            defects = [repr(error)]
        return ["\n  ".join([f"killed at {first}, {point}:", *defects, context.describe()])] if defects else []


async def test_a_workflow_continues_where_its_runner_was_killed(tmp_path: Path) -> None:
    write_home(tmp_path, scenario())
    slots = asyncio.Semaphore(AT_ONCE)

    async def with_slot(number: int, first: KillPoint, point: KillPoint) -> list[str]:
        async with slots:
            return await defects_at(server, tmp_path / f"{number}", first, point)

    async with ForkServer() as server, asyncio.TaskGroup() as group:
        tasks = [group.create_task(with_slot(number, *points)) for number, points in enumerate(POINTS)]
    found = [defect for task in tasks for defect in task.result()]
    assert not found, "\n\n".join(found)
