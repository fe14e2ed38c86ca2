"""The actor of one run. Its states are in `specs/run.toml`."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import Assignment, Execution, Executor, RunRefused
from fsm_runner.journal.records import OpenRun, Report
from fsm_runner.machine.engine import Cause, Machine, Step
from fsm_runner.process.user import RunUser
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import OPEN_RUN_STATUSES, CompletedSession, RunStatus, StopSignal
from fsm_runner.reporting import messages
from fsm_runner.reporting.executor_status import ExecutorStatus, Usage
from fsm_runner.reporting.messages import OutboundMessage, RunEnding, unreported_reason
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.actor import Actor, Position
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.blueprint import RunnerValues, with_runner_values
from fsm_runner.runtime.workspace import check_workspace
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.threads import in_thread

INTERRUPTIONS_LIMIT = 3
"""A run that was interrupted more often is not executed again, because it may be what ends the runner process."""


class Superseded(FsmRunnerError):
    """The coordinator expects no report of this run any more."""


class Observer:
    """Receives the progress of runs; this one ignores it. The methods must not block."""

    def entered(self, run: wire.Run, state: str, *, final: bool) -> None:
        """The run entered a state."""

    def reported(self, run: wire.Run, state: str, detail: str) -> None:
        """The run's executor reported a status detail."""


class RunContext(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all runs of one runner."""

    machine: Machine
    executor: Executor
    reporting: ReportingContext
    record: Record
    look_up: Callable[[str], Awaitable[wire.RunState | None]]
    """Returns the run's state at the coordinator, waiting through outages; None if it knows no such run."""
    project_dir: str
    """The working directory of runs that name none."""
    runner_values: RunnerValues
    run_timeout_s: float | None
    retry_interrupted: bool
    """Whether a run is executed again after the runner process ended during the run."""
    observer: Observer
    user: RunUser | None = None
    """The user that executors run as; None: the runner's own."""


class RunActor(Actor):
    """Takes one run from its claim to its acknowledged report."""

    def __init__(
        self, run: wire.Run, runner_id: str, context: RunContext, recovered: OpenRun | None = None, *, refusal: str = ""
    ) -> None:
        """`recovered`: the journal's record of an earlier process's run. `refusal`: why the run must fail at once."""
        resume_from = None if recovered is None else Position(recovered.state, recovered.outcome, recovered.provisional)
        super().__init__(
            run.run_id,
            context.machine,
            {
                "accept": self._accept,
                "prepare_workspace": self._prepare_workspace,
                "execute": self._execute,
                "stop_execution": self._stop_execution,
                "look_up": self._look_up,
                "report": self._report,
            },
            {"run_timeout_s": context.run_timeout_s},
            recorder=context.record,
            resume_from=resume_from,
        )
        self.wire_run = with_runner_values(run, context.runner_values)
        self.runner_id = runner_id
        self._claimed_run = run
        self._context = context
        self._recovered = recovered
        self._refusal = refusal
        self._channel = SessionChannel(
            run.session_id, context.reporting, lambda: self.has_tag("may_bind"), self._note_status
        )
        self._sent: list[DeliveryFuture] = []
        self._assignment = Assignment(self.wire_run, run.project_dir or context.project_dir, runner_id)
        self._execution: Execution | None = None
        self._session_status: CompletedSession = "finished"
        self._signal: StopSignal = "shutdown"
        self.usage: Usage | None = None
        """The cost of the run, as its executor reports it."""
        self.failure = "" if recovered is None else recovered.failure
        """Why the run failed; empty if it did not."""
        self.unreported = ""
        """Why the coordinator has no record of the outcome; empty if it has one."""
        self.terminal_report: OutboundMessage | None = None
        """None before the outcome is reported."""
        # Other tasks wait for these two, so they are events in addition to the states that they follow.
        self.work_done = asyncio.Event()
        """Set when at most the delivery of the terminal report is pending."""
        self.finished = asyncio.Event()
        if recovered is not None and recovered.report is not None:
            status = cast(RunStatus, recovered.outcome or "failed")
            ending = RunEnding(self.name, status, self.failure or None, recovered.provisional)
            self.terminal_report = OutboundMessage(recovered.report.path, recovered.report.body, ending=ending)

    @property
    def is_unstarted(self) -> bool:
        """Whether the run may still start its executor."""
        return self._execution is None and not self.work_done.is_set()

    def facts(self) -> frozenset[str]:
        interruptions = 0 if self._recovered is None else self._recovered.interruptions
        may_run_again = self._context.retry_interrupted and interruptions < INTERRUPTIONS_LIMIT
        return frozenset({"may_run_again"} if may_run_again else ())

    async def live(self) -> str:
        """Run to a final state and return it. If this is cancelled, the runner's next process resumes the run."""
        if not self.was_resumed:
            run = self._claimed_run
            content = msgspec.json.encode(run)
            self._context.record.record_claim(run.run_id, run.session_id, run.agent_name, self.runner_id, content)
        self._context.observer.entered(self.wire_run, self.state, final=self._machine.is_final(self.model))
        try:
            state = await self.run()
            self._context.reporting.outbox.abandon(self.wire_run.session_id, self._sent)
            self._context.record.record_run_end(self.name)
            return state
        finally:
            if self._execution is not None:
                await self._execution.aclose()
            self.work_done.set()

    def on_step(self, step: Step, payload: object) -> None:
        if self.model.outcome == "failed" and not self.failure:
            self.failure = self._context.reporting.redactor.text(str(payload) or type(payload).__name__)
        is_final = self._machine.is_final(self.model)
        if is_final and step.cause is not Cause.DONE:
            self.unreported = unreported_reason(self.model.outcome, cast(Exception, payload))
        if step.cause == "stop_requested":
            logger.info("{}: stop ({})", self.name, payload or "requested")
            # At once: the outbox sends a `started` that was queued in the same moment before the activity begins.
            self._context.reporting.outbox.withdraw(self.wire_run.session_id, self._sent)
        logger.debug("{}: {} → {} ({})", self.name, step.source, step.target, step.event)
        if self.has_tag("reports_started"):
            # Not awaited: the outbox keeps the order, and the executor need not wait for a round trip.
            self._put(messages.started(self.wire_run.run_id, self.runner_id))
        self._context.observer.entered(self.wire_run, self.state, final=is_final)

    def _note_status(self, status: ExecutorStatus) -> None:
        """Record what the executor reports; a detail is journalled as a step that changes nothing."""
        if status.status_detail is not None:
            detail = limited_error(self._context.reporting.redactor.text(status.status_detail))
            logger.info("{}: {}: {}", self.name, self.state.replace("_", " "), detail)
            self._context.observer.reported(self.wire_run, self.state, detail)
            self._record("detail", self.state, detail)
        if status.usage is not None:
            self.usage = status.usage
            self._context.record.record_usage(self.name, msgspec.json.encode(status.usage))

    async def _accept(self) -> None:
        if self.was_resumed:
            logger.warning("{}: executing the run again", self.name)
        await self._context.record.flush()
        if self._refusal:
            raise RunRefused(self._refusal)
        self._context.executor.accept(self.wire_run)

    async def _prepare_workspace(self) -> None:
        await in_thread(check_workspace, Path(self._assignment.project_dir), self._context.user)
        await self._context.executor.prepare(self._assignment)

    async def _execute(self) -> None:
        self._execution = await self._context.executor.start(self._assignment, self._channel)
        self._session_status = await self._execution.wait()

    async def _stop_execution(self) -> None:
        # A `started` that arrives after a stop request would set the run back to running.
        self._context.reporting.outbox.withdraw(self.wire_run.session_id, self._sent)
        if self._execution is not None:
            self._signal = "SIGKILL"  # reported if the stop fails
            self._signal = await self._execution.stop()

    async def _look_up(self) -> str:
        """Return why the run failed, if it is still this runner's. Raises `Superseded`."""
        found = await self._context.look_up(self.name)
        if found is None:
            raise Superseded("the coordinator does not know this run any more")
        if found.status not in OPEN_RUN_STATUSES:
            raise Superseded(f"the coordinator has it as {found.status} already")
        if found.status == "stopping":
            # Handled before the result of this activity, which then comes too late.
            self.post("stop_requested", "the coordinator asks for it")
        if (recovered := self._recovered) is None:
            return ""
        reason = f"interrupted: the runner's process ended while the run was {recovered.state.replace('_', ' ')}"
        if self._context.retry_interrupted and "may_run_again" not in self.facts():
            reason += f", {recovered.interruptions + 1} times; it is not executed again"
        return reason

    async def _report(self) -> None:
        # The report of an earlier process may still be in the outbox.
        response = self._context.reporting.outbox.pending_report(self.name) or self._put_terminal_report()
        self.work_done.set()
        answer = await asyncio.shield(response)
        if isinstance(answer, Refused):
            raise answer

    def _put_terminal_report(self) -> DeliveryFuture:
        report = self.terminal_report = self.terminal_report or self._report_of_outcome()
        self._context.record.record_report(self.name, Report(report.path, report.body))
        # On a full disk, an earlier process may have sent a report that the journal does not have.
        return self._put(report, maybe_delivered=self.was_resumed)

    def _put(self, report: OutboundMessage, *, maybe_delivered: bool = False) -> DeliveryFuture:
        outbox = self._context.reporting.outbox
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
