"""Creates the steps of one run's workflow, and sends its result."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import msgspec

from fsm_runner.executors.interface import Assignment
from fsm_runner.journal.records import VisitRecord
from fsm_runner.protocol.statuses import CompletedSession
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.runtime.actors.executions import Executions
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.control.budgets import RunBudget
from fsm_runner.runtime.workflow.agents import AgentStep
from fsm_runner.runtime.workflow.approval import ApprovalStep
from fsm_runner.runtime.workflow.command import CommandStep
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.data import defect_of
from fsm_runner.runtime.workflow.step import Step, Visit
from fsm_runner.runtime.workflow.turn import CONTINUE_PROMPT, TAKEN, TurnChannel, TurnStep
from fsm_runner.runtime.workflow.usage import VisitUsage
from fsm_runner.runtime.workflow.waits import WaitStep
from fsm_runner.workflow.definition import CONTINUE, Agent, Approval, Command, Turn, Wait
from fsm_runner.workflow.interpreter import Interpreter, WorkflowFault


def _last_turn(interpreter: Interpreter) -> tuple[str, JsonObject | None]:
    """Return the text or the data of the last turn; an empty text if there was none."""
    workflow = interpreter.workflow.definition
    names = {workflow.value_of(name) for name, state in workflow.states.items() if state.turn is not None}
    value: JsonObject = next((value for name, value in reversed(interpreter.values.items()) if name in names), {})
    data = value.get("data")
    return ("", data) if isinstance(data, dict) else (str(value.get("result", "")), None)


class Steps:
    """What the steps of one workflow need of the run."""

    def __init__(
        self,
        assignment: Assignment,
        context: WorkflowContext,
        executions: Executions,
        channel: TurnChannel,
        budget: RunBudget,
        record: Record,
        config_defect: Callable[[JsonObject], str | None],
        *,
        is_procedural: bool,
        earlier_children: int = 0,
    ) -> None:
        """`config_defect` returns why the executor cannot have keys of its configuration; None if it can.
        `is_procedural`: whether each turn runs a command again, which knows nothing of earlier turns.
        `earlier_children`: the number of children of visits that have ended in an earlier process.
        """
        self._budget = budget
        self._config_defect = config_defect
        self.run = assignment.run
        self._assignment = assignment
        self._context = context
        self._executions = executions
        self._channel = channel
        self._record = record
        self._is_procedural = is_procedural
        self._children = earlier_children
        """The number of children of ended visits."""
        self._step: Step | None = None
        """The last step."""

    @property
    def session_status(self) -> CompletedSession:
        """How the last turn left the session."""
        return self._executions.session_status

    @property
    def continues_after_limit(self) -> bool:
        """Whether an earlier process has left a turn that waited for a limit of the provider."""
        return self._executions.is_further_attempt

    def visit_of(
        self, interpreter: Interpreter, number: int, due_s: float | None, interrupted: VisitRecord | None
    ) -> Visit:
        """Return the visit of the current state. Raises `WorkflowFault` if its arguments cannot be evaluated."""
        return Visit(
            run=self.run,
            project_dir=Path(self._assignment.project_dir),
            runner_id=self._assignment.runner_id,
            number=number,
            workflow=interpreter.workflow.definition.name,
            state_name=interpreter.state,
            state=interpreter.definition,
            arguments=interpreter.arguments(),
            schema=interpreter.workflow.schemas.get(interpreter.state),
            due_s=due_s,
            progress=None if interrupted is None else interrupted.progress,
            save=partial(self._record.record_visit_progress, self.run.run_id, number),
        )

    def step_of(self, visit: Visit, interpreter: Interpreter, *, is_interruption: bool) -> Step:
        self._step = self._new_step(visit, interpreter, is_interruption=is_interruption)
        return self._step

    def _new_step(self, visit: Visit, interpreter: Interpreter, *, is_interruption: bool) -> Step:
        match visit.arguments:
            case Turn() as turn:
                return self._turn_step(visit, turn, is_interruption=is_interruption)
            case Command():
                return CommandStep(visit, self._context)
            case Approval():
                return ApprovalStep(visit, self._context)
            case Wait() as wait:
                return WaitStep(visit, wait)
            case Agent():
                most = interpreter.workflow.definition.budget.max_children
                left = None if most is None else max(0, most - self._children)
                return AgentStep(visit, self._context, interpreter, max_children=left)
            case never:
                assert_never(never)

    async def defect_of(self, data: Any, schema: JsonObject) -> str | None:
        return await defect_of(data, schema, self._context.checker)

    def take_usage(self) -> bytes | None:
        """Return what the last step has used, as JSON; None if that is not known."""
        step, self._step = self._step, None
        match step:
            case TurnStep():
                usage = self._executions.turn_usage
            case AgentStep() as agents:
                self._children += agents.started
                used = self._budget.take_children() or Usage()
                usage = VisitUsage(children=agents.started, **msgspec.structs.asdict(used))
            case _:
                return None
        return None if usage is None else msgspec.json.encode(usage)

    async def require_budget(self) -> None:
        """Raise `RunRefused` if a budget is used up."""
        await self._budget.begin()

    async def end_conversation(self) -> None:
        """End the executor that waits for a further turn."""
        await self._executions.end_conversation()

    def show_turn_result(self) -> None:
        """Send the result of the last turn as a message, before another step begins."""
        self._channel.show_turn_result()

    def send_result(self, interpreter: Interpreter, *, waits_for_disk: bool) -> None:
        """Send the result of the run: that of the workflow, or else that of the last turn.

        `waits_for_disk`: whether it is sent only when the journal has the end of the last visit.

        Raises `WorkflowFault` if the result cannot be evaluated. If only its data cannot, the text is sent.
        """
        try:
            result = interpreter.result() or self._last_turn_of(interpreter)
        except WorkflowFault:
            if text := interpreter.result_text():
                self._channel.final_result(text, None, waits_for_disk=waits_for_disk)
            raise
        self._channel.final_result(*result, waits_for_disk=waits_for_disk)

    def _last_turn_of(self, interpreter: Interpreter) -> tuple[str, JsonObject | None]:
        """Return the result of the last turn. The value of one in an earlier process may be shortened."""
        if not self._channel.has_turns:
            return _last_turn(interpreter)
        result = self._channel.turn_result
        return result.text, result.data if isinstance(result.data, dict) else None

    def _turn_step(self, visit: Visit, turn: Turn, *, is_interruption: bool) -> Step:
        has_taken_prompt = visit.progress == TAKEN
        if has_taken_prompt and is_interruption and not self._is_procedural:
            if visit.state.on_interrupted == CONTINUE:
                parameters = {**(turn.parameters or {}), "prompt": CONTINUE_PROMPT}
                turn = Turn(parameters=parameters, config=turn.config)
            else:  # a repeated first turn begins again if its conversation is lost
                has_taken_prompt = self._executions.can_resume
        return TurnStep(
            visit,
            turn,
            self._executions,
            self._channel,
            is_first=not (self._executions.has_taken_prompt or has_taken_prompt),
            is_begun=self.continues_after_limit and visit.progress is not None,
            config_defect=None if turn.config is None else self._config_defect(turn.config),
        )
