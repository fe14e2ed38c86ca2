"""The part of a run that concerns its workflow, if it has one."""

from collections.abc import Callable
from functools import partial

from fsm_runner.executors.interface import Assignment
from fsm_runner.journal.records import OpenRun
from fsm_runner.protocol import wire
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.reporting import messages
from fsm_runner.runtime.actors.executions import Executions
from fsm_runner.runtime.actors.run_context import RunContext
from fsm_runner.runtime.control.budgets import RunBudget
from fsm_runner.runtime.control.silence import SilenceWatch
from fsm_runner.runtime.workflow.driver import WorkflowDriver
from fsm_runner.runtime.workflow.status_report import StatusReport


class RunWorkflow:
    """Begins, reports and ends the workflow of one run. For a run without one, nothing waits, lasts or is late."""

    def __init__(
        self,
        run: wire.Run,
        context: RunContext,
        executions: Executions,
        recovered: OpenRun | None,
        has_tag: Callable[[str], bool],
        note_detail: Callable[[str], None],
    ) -> None:
        """`has_tag` returns whether the run's state has a tag. `note_detail` journals a status detail."""
        self._run = run
        self._context = context
        self._executions = executions
        self._recovered = None if recovered is None else recovered.workflow
        self._has_tag = has_tag
        self._note_detail = note_detail
        self.driver: WorkflowDriver | None = None
        """None if the run has no workflow, and before `find`."""
        # The step that decides the outcome also ends this report: one commit.
        is_shown = recovered is not None and self._recovered is not None and recovered.outcome is None
        self._report = StatusReport(self._send, has_sent=is_shown)

    def find(self, assignment: Assignment, budget: RunBudget, silence: SilenceWatch) -> None:
        """Find the workflow. Raises `RunRefused`.

        Call this after the claim is recorded: the journal then knows whether the run repeats another one.
        """
        if self._context.workflows is not None:
            self.driver = self._context.workflows.driver_of(
                assignment,
                self._executions,
                budget,
                silence,
                partial(self._has_tag, "may_bind"),
                self._recovered,
                self._note_change,
            )

    @property
    def has_begun(self) -> bool:
        """Whether a visit has begun, perhaps in an earlier process."""
        return self.driver is not None and self.driver.has_begun

    @property
    def waits(self) -> bool:
        """Whether the workflow waits, so that the run holds no slot."""
        return self.driver is not None and self.driver.has_begun and self.driver.is_waiting

    @property
    def left_s(self) -> float | None:
        """How much longer the workflow may last, in seconds; None: without a limit."""
        return None if self.driver is None else self.driver.left_s

    @property
    def is_late(self) -> bool:
        """Whether the time of the workflow is over."""
        return self.driver is not None and self.driver.is_late

    async def stop(self) -> StopSignal:
        """End everything that the workflow has started, also in an earlier process."""
        return "shutdown" if self.driver is None else await self.driver.stop()

    def close(self) -> None:
        """The run has an outcome: report that no workflow lasts, and hold the session no longer. May be repeated."""
        if self.driver is not None:
            self._report.close()
            self._executions.holds_session = False

    def record_end(self, ending: str) -> None:
        """Close the visit in the journal during which the run ended. May be repeated: the first end counts."""
        if self.driver is not None or self._recovered is not None:
            self._context.record.record_workflow_end(self._run.run_id, ending)

    def release_session(self) -> None:
        """Let other runs resume the session. May be repeated."""
        if self._context.workflows is not None:
            self._context.workflows.release(self._run)

    async def aclose(self) -> None:
        self._report.cancel()
        if self.driver is not None:
            await self.driver.aclose()

    def _note_change(self, is_new_state: bool) -> None:
        """Report the state of the workflow to the coordinator. Journal a new state as a status detail."""
        if self.driver is None:
            return
        is_urgent = not is_new_state or self._has_tag("parked")
        self._report.note(self.driver.status, at_once=is_urgent)
        if is_new_state:
            self._note_detail(self.driver.status_detail)

    def _send(self, status: wire.JsonObject | None) -> None:
        body = self._context.reporting.redactor.json(encode_json({"workflow": status}))
        # Not among the messages that a stop withdraws.
        message = messages.metadata(self._run.session_id, body, self._run)
        self._context.reporting.outbox.put(self._run.session_id, message)
