"""A workflow in the crash model: its activities do what a script says, and the log knows which visits they belong to.

The driver, the interpreter, turns, approvals and waits are real. Commands and children of other agents are models.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import Recovered
from fsm_runner.json_schema.check_program import errors_of, validator_of
from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.process.child.child import Child
from fsm_runner.protocol.approvals import ListedApproval
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workflow import workflows
from fsm_runner.runtime.workflow.approvals import Approvals
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.driver import WorkflowDriver
from fsm_runner.runtime.workflow.step import Ended, Step, Visit
from fsm_runner.runtime.workflow.steps import Steps
from fsm_runner.runtime.workflow.workflows import WorkflowChoice, Workflows
from fsm_runner.workflow.check.fields import assigned, fields_of
from fsm_runner.workflow.definition import Agent, Approval, Turn, Wait
from fsm_runner.workflow.file import LoadedWorkflow
from fsm_runner.workflow.interpreter import Interpreter
from fsm_runner.workflow.scenarios import Scenario, ending_of, results_of
from fsm_runner.workflow.value_types import Kind
from tests.support.crash_model.journal import KillSwitch, ModelJournal

LOOK_INTERVAL_S = 0.25
"""The time between two looks of the person who decides."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the activity of one visit does."""

    ending: Literal["done", "error", "denied"] = "done"
    takes_s: float | None = 1.0
    """None: it lasts until it is ended."""
    value: dict[str, Any] = {}
    """Further fields of the value."""


EMPTY: dict[Kind, Any] = {Kind.TEXT: "", Kind.INTEGER: 0, Kind.LIST: []}
CHILD = {"ok": True, "error": "", "result": "", "session_id": "ses_child", "branch": "part", "worktree": "/part"}
"""The value of a child of an agent's activity with `each`, without its item."""

Script = Callable[[str, int], Result]
"""Returns the result of a visit, from the name of the state and the number of its visit."""


def always_done(_: str, __: int) -> Result:
    return Result()


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """An activity began, or was continued."""

    process: int
    number: int
    """That of the visit in the workflow."""
    state: str
    visit: int
    """The number of the visit of this state."""
    due_s: float | None
    at_s: float


class ProcessStart(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal held when a process started."""

    open_number: int | None
    last_number: int


class WorkflowWorld:
    """What outlives the processes of a runner: the script, the person who decides, and the log."""

    def __init__(self, workflow: LoadedWorkflow, script: Script, *, has_limits: bool = False) -> None:
        """`has_limits`: whether turns meet limits of the provider, and continue later."""
        self.has_limits = has_limits
        self.workflow = workflow
        self.script = script
        self.starts: list[ProcessStart] = []
        self.begins: list[Begin] = []
        self.effects: defaultdict[int, int] = defaultdict(int)
        """How often the work of a visit was done, by its number."""
        self.turns: dict[str, Result] = {}
        """What the next execution of a run does."""
        self.acknowledged: dict[int, bool] = {}
        """The decisions of which the person has an answer, by the number of the visit."""
        self._asked_at_s: dict[int, float] = {}
        self._is_asked = asyncio.Event()
        self._visits: dict[int, tuple[str, int]] = {}

    def process_started(self, recovered: Recovered) -> None:
        positions = [run.workflow for run in recovered.runs if run.workflow is not None]
        position = positions[0] if positions else None
        self.starts.append(
            ProcessStart(
                open_number=None if position is None or position.open is None else position.open.number,
                last_number=0 if position is None else position.last_number,
            )
        )

    def begun(self, visit: Visit, count: int) -> None:
        self._visits[visit.number] = (visit.state_name, count)
        self.begins.append(
            Begin(
                process=len(self.starts) - 1,
                number=visit.number,
                state=visit.state_name,
                visit=count,
                due_s=visit.due_s,
                at_s=_now_s(),
            )
        )

    def asked(self, _: ListedApproval) -> None:
        """Let the person look at a new approval."""
        self._is_asked.set()

    async def decide(self, approvals: Approvals) -> None:
        """Be the person who decides. Cancelled when the process ends."""
        while True:
            self._is_asked.clear()
            for listed in approvals.pending():
                result = self.script(*self._visits[listed.visit])
                asked_at_s = self._asked_at_s.setdefault(listed.visit, _now_s())
                if result.takes_s is not None and _now_s() >= asked_at_s + result.takes_s:
                    is_approved = result.ending == "done"
                    try:
                        await approvals.decide(listed.run_id, approved=is_approved, by="me", comment="as I said")
                    except FsmRunnerError:
                        continue
                    self.acknowledged[listed.visit] = is_approved
            if not any(self.script(*self._visits[each.visit]).takes_s is not None for each in approvals.pending()):
                await self._is_asked.wait()
            await asyncio.sleep(LOOK_INTERVAL_S)

    @contextmanager
    def in_virtual_time(self) -> Iterator[None]:
        """Make drivers and steps use the clock of the loop, and the steps of the model."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(time, "time", _now_s))
            driver = partial(WorkflowDriver, now_s=_now_s)
            stack.enter_context(patch.object(workflows, "WorkflowDriver", driver))
            stack.enter_context(patch.object(workflows, "Steps", partial(ModelSteps, self)))
            yield

    def workflows_of(
        self, reporting: ReportingContext, journal: ModelJournal, kill_switch: KillSwitch, approvals: Approvals
    ) -> Workflows:
        """Return the workflows of one process."""
        self.kill_switch = kill_switch
        self.process_started(journal.recovered)
        context = WorkflowContext(
            environment={},
            inherited={},
            api=None,  # type: ignore[arg-type]  # no step of the model calls the coordinator
            git=Git(environment={}),
            checker=SchemaChecker(),
            approvals=approvals,
            flush=journal.flush,
        )
        choice = WorkflowChoice(load=lambda _: self.workflow, of_all=self.workflow)
        return Workflows(choice, context, reporting, journal)


class ModelSteps(Steps):
    """Creates the steps of the model."""

    def __init__(self, world: WorkflowWorld, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._world = world
        self._kill_switch = world.kill_switch

    def step_of(self, visit: Visit, interpreter: Interpreter, *, is_interruption: bool) -> Step:
        world, count = self._world, interpreter.visits[visit.state_name]
        result = world.script(visit.state_name, count)
        if (items := interpreter.each()) is not None:
            children = [{"item": item, **CHILD} for item in items]
            result = msgspec.structs.replace(result, value={**result.value, "items": children, "failed": 0})
        if isinstance(visit.arguments, Turn | Approval | Wait):
            world.turns[visit.run.run_id] = result
            step: Any = super().step_of(visit, interpreter, is_interruption=is_interruption)
        else:
            step = ModelStep(visit, result, world, self._kill_switch)
        step.perform = partial(self._perform, step.perform, visit, count)
        return step  # type: ignore[no-any-return]

    async def defect_of(self, data: Any, schema: dict[str, Any]) -> str | None:
        """Check without a process."""
        errors = list(errors_of(validator_of(schema), data))
        return str(errors[0]) if errors else None

    async def _perform(self, perform: Callable[[], Awaitable[Ended]], visit: Visit, count: int) -> Ended:
        self._kill_switch.kill_point()
        await self._kill_switch.block_if_killed()
        self._world.begun(visit, count)
        ended = await perform()
        await self._kill_switch.block_if_killed()
        self._kill_switch.kill_point()
        await self._kill_switch.block_if_killed()
        return ended


class ModelStep:
    """A command, or children of another agent, which continue after an interruption."""

    def __init__(self, visit: Visit, result: Result, world: WorkflowWorld, kill_switch: KillSwitch) -> None:
        self._visit = visit
        self._result = result
        self._world = world
        self._kill_switch = kill_switch
        self._stopped = asyncio.Event()

    @property
    def process(self) -> Child | None:
        return None

    async def perform(self) -> Ended:
        is_found = isinstance(self._visit.arguments, Agent) and self._world.effects[self._visit.number] > 0
        if not is_found:
            self._world.effects[self._visit.number] += 1
            self._kill_switch.kill_point()
        try:
            async with asyncio.timeout(self._result.takes_s):
                await self._stopped.wait()
        except TimeoutError:
            pass
        is_done = self._result.ending == "done" and not self._stopped.is_set()
        value = {"ok": is_done, "error": "" if is_done else "broken", **self._result.value}
        return Ended("done" if is_done else "error", value)

    async def stop(self) -> StopSignal:
        await self._kill_switch.block_if_killed()
        self._stopped.set()
        return "SIGTERM"

    async def aclose(self) -> None:
        self._stopped.set()


def scripted(results: Mapping[str, tuple[Result, ...]], default: Result) -> Script:
    """Return a script from the results of each state in order, of which the last one is repeated."""

    def result_of(state: str, visit: int) -> Result:
        known = results.get(state, (default,))
        return known[min(visit, len(known)) - 1]

    return result_of


def script_of(workflow: LoadedWorkflow, scenario: Scenario) -> Script:
    """Return the script with the results of a scenario of `machine test`."""

    def result_of(state: str, visit: int) -> Result:
        declared = workflow.definition.states[state]
        scripted = results_of(scenario, state, visit) or {}
        ending = ending_of(declared, scripted)
        fields = fields_of(declared)
        value = {name: scripted.get(name, EMPTY.get(fields[name].kind)) for name in assigned(declared, ending)}
        value |= {"error": scripted.get("error", "scripted error")} if ending == "error" else {}
        if declared.command is not None:
            value["exit_code"] = scripted.get("exit_code", int(ending != "done"))
        made = {"ok"} if ending == "error" else {"ok", "error"}
        value = {name: it for name, it in value.items() if name not in made}
        takes_s = None if ending == "timeout" or scripted.get("timeout") else 1.0
        return Result(ending="done" if ending == "timeout" else ending, takes_s=takes_s, value=value)  # type: ignore[arg-type]

    return result_of


def _now_s() -> float:
    return asyncio.get_running_loop().time()
