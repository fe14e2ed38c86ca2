"""Executes the workflow of one run, step by step."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import datetime

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import ExecutionFailed
from fsm_runner.executors.procedural import TIME_LIMIT_EXIT_CODE
from fsm_runner.journal.records import WORKFLOW, Transition, VisitRecord, WorkflowPosition, WorkflowRecord, utc_text
from fsm_runner.machine.engine import Step
from fsm_runner.protocol.approvals import Decided
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.runtime.actors.executions import LimitReached
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.control.silence import SilenceWatch
from fsm_runner.runtime.workflow import step as activity
from fsm_runner.runtime.workflow.approval import ApprovalStep
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.runtime.workflow.steps import Steps
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.wall_clock import is_done_by
from fsm_runner.workflow.definition import CONTINUE, REPEAT, Agent, Approval, Command, Turn, Wait
from fsm_runner.workflow.interpreter import Interpreter, WorkflowFault

INTERRUPTIONS_LIMIT = 3
"""A visit that was interrupted for this number of times is not continued: it may be what ends the runner's process."""
END_LIMIT_S = 5.0
"""The time in which a step returns its value after it was stopped for its time limit."""
NO_OUTPUT: JsonObject = {"exit_code": TIME_LIMIT_EXIT_CODE, "stdout": "", "stderr": ""}
"""The fields of a command that has not ended within `END_LIMIT_S`: a workflow may rely on them."""

_PARKED = Agent | Approval | Wait


class WorkflowDriver:
    """Carries out the steps of a workflow, and writes each visit to the journal before its step begins.

    `execute` and `wait` continue where the last call ended. Cancelling them ends no step: `stop` or `aclose` does.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        workflow: WorkflowRecord,
        steps: Steps,
        record: Record,
        silence: SilenceWatch,
        position: WorkflowPosition | None = None,
        *,
        fault: WorkflowFault | None = None,
        on_change: Callable[[bool], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`position`: where an earlier process was. `fault`: why no state follows its last visit; None if one does, or
        if there is no such visit. `on_change` is called when `status` has changed, with whether the
        workflow has entered a state. `now_s` is the wall clock.
        """
        self.interpreter = interpreter
        self._workflow = workflow
        self._steps = steps
        self._record = record
        self._silence = silence
        self._fault = fault
        self._on_change = on_change
        self._now_s = now_s
        self.has_begun = position is not None and position.last_number > 0
        """Whether a visit has begun, perhaps in an earlier process."""
        began_s = now_s() if position is None else datetime.fromisoformat(position.began_at).timestamp()
        self._ends_s = None if self.max_wall_s is None else began_s + self.max_wall_s
        """When the workflow must have ended, as Unix time; None: without a limit."""
        self._number = 0 if position is None else position.last_number
        self._open = None if position is None else position.open
        """The visit that an earlier process has begun, until this process continues it."""
        self._visit: Visit | None = None
        self._step: activity.Step | None = None
        self.limit_since_s: float | None = None
        """When a limit of the provider interrupted the step; None if none did."""
        self._decided: Decided | None = None
        """The latest decision about an approval."""
        self._since = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the workflow waits, so that the run holds no slot."""
        return isinstance(self.interpreter.definition.activity, _PARKED)

    @property
    def is_over(self) -> bool:
        """Whether the workflow has reached a final state."""
        return self.interpreter.is_final

    @property
    def status(self) -> JsonObject:
        """The session's field `workflow` (docs/protocol.md, section 1.4)."""
        step = self._step
        return {
            "name": self._workflow.name,
            "state": self.interpreter.state,
            "since": self._since,
            "visit": self._number,
            "approval": step.request if isinstance(step, ApprovalStep) and step.decided is None else None,
            "decided": self._decided,
        }

    @property
    def status_detail(self) -> str:
        """The state of the workflow, for people."""
        name, state = self.interpreter.state, self.interpreter.definition
        visits = self.interpreter.visits[name]
        if isinstance(self._step, ApprovalStep) and self._step.decided is None:
            return f"{name}: waits for fsm-runner approve {self._steps.run.run_id} [--deny] [--comment TEXT]"
        if self.interpreter.is_final or (visits < 2 and state.max_visits is None):
            return name
        return f"{name} (visit {visits}{'' if state.max_visits is None else f' of {state.max_visits}'})"

    @property
    def max_wall_s(self) -> float | None:
        """How long the workflow may last, in seconds; None: without a limit."""
        return self.interpreter.workflow.definition.budget.max_wall_s

    @property
    def left_s(self) -> float | None:
        """How much longer the workflow may last (`max_wall_s`), in seconds; None: without a limit."""
        return None if self._ends_s is None else max(0.0, self._ends_s - self._now_s())

    async def execute(self) -> CompletedSession:
        """Carry out steps until the workflow has ended or waits. Return how its executor leaves the session.

        Raises `ExecutionFailed` if the workflow has failed, and what a step raises.
        """
        try:
            return await self._execute()
        except LimitReached:
            raise
        except FsmRunnerError:
            self._steps.show_turn_result()
            await self._steps.end_conversation()
            raise

    async def _execute(self) -> CompletedSession:
        self._require_next_state()
        if not self.has_begun:
            self.has_begun = True
            self._record.record_workflow(self._steps.run.run_id, self._workflow)
            self.interpreter.enter()
            self._send_result()
        while not (self.interpreter.is_final or self.is_waiting):
            self._require_time()
            await self._carry_out()
        if not self.interpreter.is_final:
            return self._steps.session_status
        if self.interpreter.outcome == "failed":
            raise ExecutionFailed(self.interpreter.error)
        self.interpreter.result()  # If it cannot be evaluated, the run fails, also in a later process.
        return self._steps.session_status

    async def wait(self) -> None:
        """Return when the wait of the workflow is over. Raises what its step raises."""
        self._require_next_state()
        await self._carry_out()

    async def stop(self) -> StopSignal:
        """End everything that the step in progress has started, also in an earlier process. Return what it took."""
        if self._step is None and self._open is not None and isinstance(self.interpreter.definition.activity, Agent):
            with suppress(FsmRunnerError):  # without its arguments, it has started nothing
                visit = self._steps.visit_of(self.interpreter, self._open.number, self._open.due_s, self._open)
                self._step = self._steps.step_of(visit, self.interpreter, is_interruption=True)
        return "shutdown" if self._step is None else await self._step.stop()

    async def aclose(self) -> None:
        if self._step is not None:
            await self._step.aclose()

    async def _carry_out(self) -> None:
        """Carry out the visit of the current state, or continue it, and enter the next state."""
        if self._step is None and (self._open is None or self._may_continue(self._open)):
            await self._begin(self._open)
        if self._step is None or self._visit is None:  # another state follows an interruption
            return
        step, visit = self._step, self._visit
        self._extend_by_wait_for_limit(visit)
        try:
            # An approval keeps its own deadline, which denies it.
            ended = await self._performed(step, None if isinstance(step, ApprovalStep) else self._visit.due_s)
        except FsmRunnerError:
            self.limit_since_s = self._now_s()
            raise
        ended = await self._checked(ended, visit)
        if isinstance(step, ApprovalStep):
            self._decided = step.decided
            self._on_change(False)
            if step.has_expired:
                self._require_time()
        await step.aclose()
        self._step = self._visit = None
        self._end(visit.number, ended)

    def _require_next_state(self) -> None:
        """Raise the fault at the end of the last visit, if an earlier process has left the run with one."""
        if self._fault is not None:
            raise self._fault

    def _may_continue(self, visit: VisitRecord) -> bool:
        """Whether an interrupted visit continues. Otherwise, `on_interrupted` has led to another state."""
        if self.is_waiting or self._steps.continues_after_limit:
            return True
        is_repeated = self.interpreter.definition.on_interrupted in (REPEAT, CONTINUE)
        times = visit.interruptions + 1
        if is_repeated and times < INTERRUPTIONS_LIMIT:
            return True
        if is_repeated:
            self._record.record_visit_interrupted(self._steps.run.run_id, visit.number, times)
            raise ExecutionFailed(f"{_interrupted(visit.state)}, {times} times; it is not continued again")
        self._open, error = None, interruption_error(visit.state)
        self._record_steps(self.interpreter.interrupt(error), error)
        run_id, target = self._steps.run.run_id, self.interpreter.state
        self._record.record_visit_end(run_id, visit.number, "interrupted", target, None, None, None)
        self._send_result()
        return False

    async def _begin(self, interrupted: VisitRecord | None) -> None:
        """Write the visit to the journal and create its step, which has not begun then."""
        run_id, is_further = self._steps.run.run_id, interrupted is not None
        is_interruption = is_further and not self._steps.continues_after_limit
        number = self._number if is_further else self._number + 1
        due_s = self._due_s() if interrupted is None else interrupted.due_s
        visit = self._steps.visit_of(self.interpreter, number, due_s, interrupted)
        if interrupted is None:
            if isinstance(visit.arguments, Agent):
                await self._steps.require_budget()
            self._number = number
            self._record.record_visit(run_id, number, self.interpreter.state, due_s)
        elif is_interruption and not self.is_waiting:
            self._record.record_visit_interrupted(run_id, number, interrupted.interruptions + 1)
        step = self._steps.step_of(visit, self.interpreter, is_interruption=is_interruption)
        await self._record.flush()
        self._visit, self._step, self._open = visit, step, None
        self._since = utc_text() if interrupted is None else interrupted.began_at
        if not isinstance(visit.arguments, Turn):  # a turn decides itself whether it continues an earlier one
            self._steps.show_turn_result()
        self._on_change(True)

    def _due_s(self) -> float | None:
        """Return the deadline of a visit that begins now, as Unix time; None: without a limit."""
        limit_s = self.interpreter.definition.timeout_s
        return self._ends_s if limit_s is None else self._within_wall(self._now_s() + limit_s)

    def _within_wall(self, due_s: float) -> float:
        return due_s if self._ends_s is None else min(due_s, self._ends_s)

    def _extend_by_wait_for_limit(self, visit: Visit) -> None:
        """Postpone the deadline of a step by the time for which it has waited for a limit of the provider."""
        if self.limit_since_s is None:
            return
        waited_s, self.limit_since_s = self._now_s() - self.limit_since_s, None
        if visit.due_s is not None:
            due_s = self._within_wall(visit.due_s + max(0.0, waited_s))
            self._visit = msgspec.structs.replace(visit, due_s=due_s)
            self._record.record_visit_due(self._steps.run.run_id, visit.number, due_s)

    def _require_time(self) -> None:
        """Raise `ExecutionFailed` if the time of the workflow is over."""
        if self.is_late:
            raise ExecutionFailed(self.late_text)

    @property
    def is_late(self) -> bool:
        """Whether the time of the workflow is over."""
        return self.left_s == 0

    @property
    def late_text(self) -> str:
        """The error of a workflow whose time is over."""
        state = self.interpreter.state
        return f"the workflow was not done within {self.max_wall_s:g} s (budget.max_wall_s); its state was {state!r}"

    async def _performed(self, step: activity.Step, due_s: float | None) -> Ended:
        """Perform the step, and stop it at its deadline."""
        run_id = self._steps.run.run_id
        task = asyncio.create_task(step.perform(), name=f"{run_id} {self.interpreter.state}")
        is_command = isinstance(self.interpreter.definition.activity, Command)
        try:
            async with self._silence.over(step) if is_command else nullcontext():
                is_done = await is_done_by(due_s, task, self._now_s)
            if is_done:
                return task.result()
            await step.stop()
            await asyncio.wait({task}, timeout=END_LIMIT_S)
            if not task.done():  # it may have been about to start a process
                task.cancel()
                await asyncio.wait({task})
                await step.stop()
            has_ended = not (task.cancelled() or task.exception())
            return self._timed_out(task.result() if has_ended else Ended("timeout", {}))
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _timed_out(self, ended: Ended) -> Ended:
        is_late = self.is_late
        if ended.ending == "timeout" and ended.value and not is_late:  # a command, whose error has its output
            return ended
        limit_s = self.interpreter.definition.timeout_s or 0.0
        error = (
            self.late_text if is_late else f"{self.interpreter.state}: not done within its time limit of {limit_s:g} s"
        )
        is_command = isinstance(self.interpreter.definition.activity, Command)
        return Ended("timeout", {**(NO_OUTPUT if is_command else {}), **ended.value, "ok": False, "error": error})

    async def _checked(self, ended: Ended, visit: Visit) -> Ended:
        """Return an error if the step has produced data that does not match the schema of the state."""
        if ended.ending != "done" or "data" not in ended.value or visit.schema is None:
            return ended
        defect = await self._steps.defect_of(ended.value["data"], visit.schema)
        if defect is None:
            return ended
        value = {name: content for name, content in ended.value.items() if name != "data"}
        return Ended("error", {**value, "ok": False, "error": defect})

    def _end(self, number: int, ended: Ended) -> None:
        """Assign the value and enter the next state, and send the result if that completes the workflow: one commit."""
        interpreter = self.interpreter
        name = interpreter.workflow.definition.value_of(interpreter.state)
        # A later process must not repeat a visit, or leave it for another one, whose result is known. A visit that
        # fails the run if it is interrupted need not wait, as the result of a run without a workflow does not.
        waits_for_disk = self.is_waiting or interpreter.definition.on_interrupted is not None
        try:
            self._record_steps(interpreter.end(ended.ending, ended.value), str(ended.value.get("error", "")))
        finally:  # also if a guard cannot be evaluated
            self._record.record_visit_end(
                self._steps.run.run_id,
                number,
                ended.ending,
                interpreter.state,
                name,
                encode_json(interpreter.values[name]),
                self._steps.take_usage(),
            )
        self._send_result(waits_for_disk=waits_for_disk)

    def _send_result(self, *, waits_for_disk: bool = True) -> None:
        """Queue the result of the run if the workflow has completed.

        The end of the last visit and the result are one commit, so a later process need not send it again.
        """
        if self.interpreter.outcome == "completed":
            self._steps.send_result(self.interpreter, waits_for_disk=waits_for_disk)

    def _record_steps(self, taken: list[Step], reason: str) -> None:
        run_id = self._steps.run.run_id
        for step in taken:
            transition = Transition(WORKFLOW, run_id, step.event, step.source, step.target, None, limited_error(reason))
            self._record.record_transition(transition)


def interruption_error(state: str) -> str:
    """Return the error of a visit that is not continued."""
    return (
        f"{_interrupted(state)}; its work may have been done, and the state has no `on_interrupted` that says how to "
        "continue"
    )


def _interrupted(state: str) -> str:
    return f"interrupted: the runner's process ended during the state {state!r} of the workflow"
