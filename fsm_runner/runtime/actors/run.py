"""The actor of one run. Its states are in `specs/run.toml`."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused, RunReassigned
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import Assignment, ExecutionFailed, RunRefused
from fsm_runner.journal.journal import JournalUnwritable
from fsm_runner.journal.records import OpenRun, Report
from fsm_runner.machine.engine import Cause, Step
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import STOP_SIGNALS, CompletedSession, RunStatus, StopSignal
from fsm_runner.reporting import messages
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.reporting.messages import OutboundMessage, RunEnding, unreported_reason
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.runtime.actors.actor import Actor, Position
from fsm_runner.runtime.actors.executions import Executions, LimitReached
from fsm_runner.runtime.actors.limit_waits import LimitWaits
from fsm_runner.runtime.actors.run_context import RunContext
from fsm_runner.runtime.actors.wanted import ANSWER_LIMIT_S, WantedCheck
from fsm_runner.runtime.blueprint import with_runner_values
from fsm_runner.runtime.control.provider_limits import LimitWait, ProviderLimits
from fsm_runner.runtime.control.silence import SilenceWatch
from fsm_runner.runtime.expectations import RunExpectations
from fsm_runner.runtime.workflow.run_workflow import RunWorkflow
from fsm_runner.runtime.workspace import check_workspace
from fsm_runner.runtime.workspace_state import WorkspaceState
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.threads import in_thread

Form = TypeVar("Form")

INTERRUPTIONS_LIMIT = 3
"""A run that was interrupted more often is not executed again, because it may be what ends the runner process."""


class RunActor(Actor):
    """Takes one run from its claim to its acknowledged report."""

    def __init__(
        self,
        run: wire.Run,
        runner_id: str,
        context: RunContext,
        limits: ProviderLimits,
        recovered: OpenRun | None = None,
        *,
        refusal: str = "",
    ) -> None:
        """`recovered`: the journal's record of an earlier process's run. `refusal`: why the run must fail at once."""
        resume_from = None if recovered is None else Position(recovered.state, recovered.outcome, recovered.provisional)
        self._settings_of_states: dict[str, float | None] = {
            "run_timeout_s": context.run_timeout_s,
            "limit_wait_s": None,
            "max_wall_s": None,
        }
        """The time limits of the machine's states. Each step sets them."""
        super().__init__(
            run.run_id,
            context.machine,
            {
                "accept": self._accept,
                "prepare_workspace": self._prepare_workspace,
                "execute": self._execute,
                "await_limit": self._await_limit,
                "await_workflow": self._await_workflow,
                "check_result": self._check_result,
                "stop_execution": self._stop_execution,
                "look_up": self._look_up,
                "report": self._report,
            },
            self._settings_of_states,
            recorder=context.record,
            resume_from=resume_from,
        )
        self.wire_run = with_runner_values(run, context.runner_values)
        self.runner_id = runner_id
        self._claimed_run = run
        self._context = context
        self._recovered = recovered
        self._refusal = refusal
        self._expectations = RunExpectations(context.expectations)
        try:
            self._expectations = context.expectations.of_run(self.wire_run)
        except RunRefused as defect:
            self._refusal = refusal or str(defect)
        self._sent: list[DeliveryFuture] = []
        self._assignment = Assignment(self.wire_run, run.project_dir or context.project_dir, runner_id)
        self._budget = context.budgets.of(run, partial(self.post, "budget_exceeded"))
        self._silence = SilenceWatch(run.run_id, context.silence_limit, partial(self.post, "fell_silent"))
        self._executions = Executions(
            self._assignment,
            context,
            limits,
            self._budget,
            self._silence,
            self._expectations,
            self.has_tag,
            self._note_detail,
        )
        self._waits = LimitWaits(self.wire_run, context, limits, self._executions)
        self._workflow = RunWorkflow(
            self.wire_run, context, self._executions, recovered, self.has_tag, self._note_detail
        )
        self._has_reported_start = False
        self._session_status: CompletedSession = "finished"
        self._signal: StopSignal = "shutdown"
        self._limits = limits
        stop = partial(self.post, "stop_requested", "the coordinator asks for it")
        self._wanted = WantedCheck(run, runner_id, context.look_up, stop, self._end_work)
        self.failure = "" if recovered is None else recovered.failure
        """Why the run failed; empty if it did not."""
        self.unreported = ""
        """Why the coordinator has no record of the outcome; empty if it has one."""
        self.terminal_report: OutboundMessage | None = None
        """None before the outcome is reported, and if it must not be."""
        self.reassigned_by: Refused | None = None
        """Why the run is not this runner's any more; None: it is."""
        # Other tasks wait for these two, so they are events in addition to the states that they follow.
        self.work_done = asyncio.Event()
        """Set when at most the delivery of the terminal report is pending."""
        self.finished = asyncio.Event()
        if recovered is not None:
            self._recover(recovered)

    def _recover(self, recovered: OpenRun) -> None:
        wait = _decoded(recovered.wait, LimitWait, self.name)
        self._executions.restore(wait, _decoded(recovered.usage, Usage, self.name))
        if wait is not None:
            self._waits.restore(wait)
        self._expectations.before = _decoded(recovered.workspace, WorkspaceState, self.name)
        if recovered.report is not None:
            status = cast(RunStatus, recovered.outcome or "failed")
            ending = RunEnding(self.name, status, self.failure or None, recovered.provisional)
            self.terminal_report = OutboundMessage(recovered.report.path, recovered.report.body, ending=ending)

    @property
    def is_unstarted(self) -> bool:
        """Whether the run may still start its executor."""
        is_begun = self._executions.is_started and not self._executions.is_starting
        return not (is_begun or self.work_done.is_set() or self.has_tag("parked"))

    @property
    def usage(self) -> Usage | None:
        """The cost of the run, as its executor reports it."""
        return self._executions.usage

    def facts(self) -> frozenset[str]:
        interruptions = 0 if self._recovered is None else self._recovered.interruptions
        workflow = self._workflow
        is_unbegun_workflow = workflow.driver is not None and not workflow.has_begun
        is_repeatable = self._context.retry_interrupted or is_unbegun_workflow
        facts = {
            "may_run_again": is_repeatable and interruptions < INTERRUPTIONS_LIMIT,
            "workflow_has_begun": workflow.has_begun,
            "workflow_waits": workflow.waits,
            "waits_for_limit": self._waits.can_last,
            "is_superseded": bool(self._wanted.superseded),
            "limit_is_over": self._waits.is_over and not workflow.is_late,
            "credential_is_limited": self._limits.holds_back(self.name),
            "has_expectations": bool(self._expectations.wanted),
        }
        return frozenset(compress(facts, facts.values()))

    def time_limit_error(self, limit_s: float, setting: str | None) -> FsmRunnerError:
        # The settings are what earlier visits have left of these two.
        if setting == "max_wall_s" and self._workflow.driver is not None:
            return ExecutionFailed(self._workflow.driver.late_text)
        if setting == "run_timeout_s":
            limit_s = self._context.run_timeout_s or limit_s
        return super().time_limit_error(limit_s, setting)

    async def live(self) -> str:
        """Run to a final state and return it. If this is cancelled, the runner's next process resumes the run."""
        if not self.was_resumed:
            run = self._claimed_run
            content = msgspec.json.encode(run)
            if run.attempt > 1:
                await self._forget_earlier_attempt()
            self._context.record.record_claim(run.run_id, run.session_id, run.agent_name, self.runner_id, content)
        try:
            if not self._refusal:
                self._workflow.find(self._assignment, self._budget, self._silence)
        except RunRefused as defect:
            self._refusal = str(defect)
        if self._workflow.driver is not None and self._waits.current is not None:
            self._workflow.driver.limit_since_s = self._waits.current.since_s
        self._context.observer.entered(self.wire_run, self.state, final=self._machine.is_final(self.model))
        try:
            state = await self.run()
            self._context.reporting.outbox.abandon(self.wire_run.session_id, self._sent)
            self._workflow.record_end(self.model.outcome or state)
            self._context.record.record_run_end(self.name)
            return state
        finally:
            self._budget.close()
            await self._workflow.aclose()
            # The execution of a parked run has ended. The session of a run that the next process continues has not.
            if not self.has_tag("parked"):
                await self._executions.aclose()
            self._workflow.release_session()
            self.work_done.set()

    async def _forget_earlier_attempt(self) -> None:
        """Let the journal begin the run anew, if this runner had it before and lost it."""
        with suppress(JournalUnwritable):
            await self._context.record.flush()  # the end of the earlier attempt
        self._context.record.forget_workflow(self.name)

    def on_step(self, step: Step, payload: object) -> None:
        if self.model.outcome == "failed" and not self.failure:
            reason = str(payload) or type(payload).__name__
            if self._waits.current is not None:
                if self._workflow.driver is not None and self._workflow.is_late:
                    reason = self._workflow.driver.late_text
                elif step.cause is Cause.TIMEOUT:
                    reason = f"the run waits {self._limits.policy.max_wait_s:g} s at most (--limit-wait, LIMIT_WAIT)"
                reason = f"{self._waits.current.limit}; {reason}"
            self.failure = self._context.reporting.redactor.text(reason)
        is_final = self._machine.is_final(self.model)
        if self.has_tag("abandoned"):
            self._abandon(cast(Refused, payload))
        elif is_final and step.cause is not Cause.DONE and not self._machine.has_tag(step.source, "abandoned"):
            self.unreported = unreported_reason(self.model.outcome, cast(Exception, payload))
        if step.cause == "stop_requested":
            logger.info("{}: stop ({})", self.name, payload or "requested")
            # At once: the outbox sends a `started` that was queued in the same moment before the activity begins.
            self._context.reporting.outbox.withdraw(self.wire_run.session_id, self._sent)
        logger.debug("{}: {} → {} ({})", self.name, step.source, step.target, step.event)
        self._follow_execution()
        self._follow_wait(step)
        if self.has_tag("reports_started") and not (self._has_reported_start or self._executions.have_begun):
            self._has_reported_start = True
            # Not awaited: the outbox keeps the order, and the executor need not wait for a round trip.
            started = messages.started(self.wire_run.run_id, self.runner_id)
            # The coordinator must not have a run as running whose claim is not on disk.
            started = msgspec.structs.replace(started, waits_for_disk=self._workflow.driver is not None)
            self._put(started, maybe_delivered=self._workflow.has_begun)
        self._context.observer.entered(self.wire_run, self.state, final=is_final)
        if self._waits.current is not None and self.has_tag("awaits_limit"):
            self._note_detail(str(self._waits.current))

    def _abandon(self, refusal: Refused) -> None:
        """Withdraw all messages and the report, which the next process of this runner must not send either."""
        self.reassigned_by, self.unreported = refusal, str(refusal)
        if isinstance(refusal, RunReassigned):
            self._context.reporting.outbox.withdraw_run(self.wire_run.session_id, self.name, refusal)
        self.terminal_report = None
        self._context.record.record_report(self.name, None)

    def _follow_execution(self) -> None:
        """Count the time of executions. The run's time limit is paused while it waits."""
        self._executions.count_until_now()
        if self.has_tag("may_bind"):
            self._executions.count_from_now()
            limit_s, lasted_s = self._context.run_timeout_s, self._executions.lasted_s
            self._settings_of_states["run_timeout_s"] = None if limit_s is None else max(0.0, limit_s - lasted_s)

    def _follow_wait(self, step: Step) -> None:
        if self.has_tag("awaits_limit"):
            limits_s = (self._waits.begin(), self._workflow.left_s)
            self._settings_of_states["limit_wait_s"] = min(
                (each for each in limits_s if each is not None), default=None
            )
        elif step.cause != "interrupted":
            self._waits.end(keeps_limit=self.model.outcome == "failed")
        self._settings_of_states["max_wall_s"] = self._workflow.left_s
        if self.model.outcome is not None:
            self._workflow.close()
        if self.has_tag("parked"):
            self._limits.parked(self.name, self.wire_run.session_id)
        else:
            self._limits.unparked(self.name)

    def _note_detail(self, detail: str) -> None:
        """Journal a status detail as a step that changes nothing."""
        detail = limited_error(self._context.reporting.redactor.text(detail))
        logger.info("{}: {}: {}", self.name, self.state.replace("_", " "), detail)
        self._context.observer.reported(self.wire_run, self.state, detail)
        self._record("detail", self.state, detail)

    async def _accept(self) -> None:
        if self.was_resumed:
            logger.warning("{}: executing the run again", self.name)
        if self._workflow.driver is None or self._workflow.has_begun:
            await self._context.record.flush()
        # Otherwise the workflow flushes the claim with its first visit. If that is lost, nothing was started, and the
        # coordinator still has the run as claimed, so the next process starts it.
        self._require_usable()
        self._require_free_session()
        await self._budget.begin()
        self._context.executor.accept(self.wire_run)

    async def _prepare_workspace(self) -> None:
        await in_thread(check_workspace, Path(self._assignment.project_dir), self._context.user)
        await self._context.executor.prepare(self._assignment)
        await self._expectations.prepare(Path(self._assignment.project_dir))
        if (before := self._expectations.before) is not None:
            self._context.record.record_workspace(self.name, msgspec.json.encode(before))

    def _require_free_session(self) -> None:
        """Raise `RunRefused` if another run of the session waits for a limit, or has a workflow: it is not complete."""
        session_id = self.wire_run.session_id
        workflows = self._context.workflows
        holder = None if workflows is None else workflows.holder_of(session_id)
        if holder is not None and holder != self.name:
            raise RunRefused(
                f"session {session_id} is busy: its run {holder} follows a workflow; resume the session when that run "
                "has ended"
            )
        if (waiting := self._limits.waiting_run_of(session_id)) is not None:
            raise RunRefused(
                f"session {session_id} is busy: its run {waiting} waits for a limit of its provider; resume "
                "the session when that run has ended"
            )

    async def _execute(self) -> None:
        self._require_usable()
        self._require_free_session()
        try:
            self._session_status = await (self._workflow.driver or self._executions).execute()
        except LimitReached as failure:
            raise ExecutionFailed(f"{failure}; {self._waits.plan(failure.limit)}") from failure

    def _require_usable(self) -> None:
        """Raise `RunRefused` if the run cannot be executed, such as one whose workflow the journal lacks."""
        if self._refusal:
            raise RunRefused(self._refusal)

    async def _await_limit(self) -> None:
        """Return when the run may continue. Raises `ExecutionFailed` if that has become impossible, or `Superseded`."""
        await self._while_wanted(self._pass_limit())

    async def _pass_limit(self) -> None:
        is_admitted = False
        while not is_admitted:
            await self._waits.wait_for_admission()
            await self._wanted.require()
            # Another run may have met the limit meanwhile.
            is_admitted = not self._limits.holds_back(self.name)

    async def _await_workflow(self) -> None:
        """Return when the workflow may continue. Raises `Superseded`, and what a step of the workflow raises."""
        self._require_usable()
        await self._while_wanted(self._continue_workflow())

    async def _continue_workflow(self) -> None:
        workflow = self._workflow.driver
        while workflow is not None and workflow.is_waiting:
            await workflow.wait()
        if workflow is None or not workflow.is_over:
            await self._limits.wait_for_slot(self.name)
        await self._wanted.require(ANSWER_LIMIT_S)

    async def _while_wanted(self, waiting: Coroutine[Any, Any, None]) -> None:
        # The coordinator may have ended the run while the runner was away.
        await (self._wanted.during(waiting) if self.was_resumed else waiting)

    async def _end_work(self) -> None:
        """End what was started for a run that the coordinator does not expect any more."""
        await self._stop_children()
        await self._executions.stop()

    async def _check_result(self) -> None:
        await self._expectations.check(Path(self._assignment.project_dir))

    async def _stop_execution(self) -> None:
        # A `started` that arrives after a stop request would set the run back to running.
        self._context.reporting.outbox.withdraw(self.wire_run.session_id, self._sent)
        stops = [] if self._workflow.driver is None else [self._workflow.stop()]
        if self._executions.is_started:
            stops.append(self._executions.stop())  # beside a step that is no turn, its executor may be idle
        self._signal = "SIGKILL" if stops else "shutdown"  # reported if the stop fails
        ended = await asyncio.gather(*stops, return_exceptions=True)
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure
        signals = [signal for signal in ended if not isinstance(signal, BaseException)]
        self._signal = max(signals, default="shutdown", key=STOP_SIGNALS.index)

    async def _look_up(self) -> str:
        """Return why the run failed, if it is still this runner's. Raises `Superseded`."""
        await self._wanted.require()
        if (recovered := self._recovered) is None:
            return ""
        reason = f"interrupted: the runner's process ended while the run was {recovered.state.replace('_', ' ')}"
        if self._waits.current is not None and not self._waits.can_last:
            reason += ", and its executor ended too; with `revive` in the profile, the session could continue"
        if self._context.retry_interrupted and "may_run_again" not in self.facts():
            reason += f", {recovered.interruptions + 1} times; it is not executed again"
        return reason

    async def _stop_children(self) -> None:
        """Stop the children that an earlier process has started for the run, unless this process has done so."""
        if self.was_resumed:
            await self._workflow.stop()

    async def _report(self) -> None:
        await self._stop_children()
        # The report of an earlier process may still be in the outbox.
        response = self._context.reporting.outbox.pending_report(self.name) or self._put_terminal_report()
        self.work_done.set()
        self._limits.ended(self.name)
        self._workflow.release_session()
        answer = await asyncio.shield(response)
        if isinstance(answer, Refused):
            raise answer

    def _put_terminal_report(self) -> DeliveryFuture:
        report = self.terminal_report = self.terminal_report or self._report_of_outcome()
        self._workflow.record_end(self.model.outcome or self.state)  # no earlier: a stop needs the visit's progress
        self._context.record.record_report(self.name, Report(report.path, report.body))
        # On a full disk, an earlier process may have sent a report that the journal does not have.
        return self._put(report, maybe_delivered=self.was_resumed)

    def _put(self, report: OutboundMessage, *, maybe_delivered: bool = False) -> DeliveryFuture:
        outbox = self._context.reporting.outbox
        report = msgspec.structs.replace(report, attempt=self.wire_run.attempt)
        response = outbox.put(self.wire_run.session_id, report, maybe_delivered=maybe_delivered)
        self._sent.append(response)
        return response

    def _report_of_outcome(self) -> OutboundMessage:
        run_id, provisional = self.wire_run.run_id, self.model.provisional
        match self.model.outcome:
            case "completed":
                return messages.completed(run_id, self.runner_id, self._session_status)
            case "stopped":
                return messages.stopped(run_id, self.runner_id, self._signal, provisional=provisional)
            case _:
                return messages.failed(run_id, self.runner_id, limited_error(self.failure), provisional=provisional)


def _decoded(content: bytes | None, form: type[Form], run_id: str) -> Form | None:
    """Decode a record of the journal; None without one, or if another version wrote it."""
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=form)
    except wire.DECODE_FAULTS as defect:
        logger.error("{}: a record in the journal cannot be decoded: {}", run_id, defect)
        return None
