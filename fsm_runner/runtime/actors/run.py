"""One run: lives the life of `specs/run.toml`."""

import asyncio
from pathlib import Path
from typing import Protocol

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import Assignment, Execution, Executor, RunRefused
from fsm_runner.journal.records import OpenRun, Report
from fsm_runner.machine.engine import Machine, Step
from fsm_runner.process.user import RunUser
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import OPEN_RUN_STATUSES, CompletedSession, RunStatus, StopSignal
from fsm_runner.reporting import messages
from fsm_runner.reporting.executor_status import ExecutorStatus, Usage
from fsm_runner.reporting.messages import OutboundMessage, RunEnding
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_reporter import ReportingContext, SessionReporter
from fsm_runner.reporting.unreported import why_unreported
from fsm_runner.runtime.actors.actor import Actor, Position
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.blueprint import RunnerValues, with_runner_values
from fsm_runner.runtime.workspace import check_workspace
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.threads import in_thread

INTERRUPTIONS_LIMIT = 3
"""A run that was interrupted so often is not tried again, whatever the profile says: it may be what kills the
runner."""


class SettledElsewhere(FsmRunnerError):
    """The coordinator waits for no report of this run any more."""


class RunLookUp(Protocol):
    """What the coordinator holds of a run, however long it is away; None: it knows no such run."""

    async def __call__(self, run_id: str) -> wire.RunState | None: ...


class Observer:
    """Learns what runs do. This one ignores it. The methods must not block."""

    def entered(self, run: wire.Run, state: str, *, final: bool) -> None:
        """The run is in this state now. `final`: it is over."""

    def reported(self, run: wire.Run, state: str, detail: str) -> None:
        """In this state, the run's executor has reported a status detail."""


class RunContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of one runner share."""

    machine: Machine
    executor: Executor
    channels: ReportingContext
    record: Record
    look_up: RunLookUp
    project_dir: str
    """Where runs work that name no directory of their own."""
    runner_values: RunnerValues
    run_timeout_s: float | None
    retry_interrupted: bool
    """Whether a run is carried out again that was interrupted by the end of the runner's process."""
    observer: Observer
    user: RunUser | None = None
    """Who executors are started as, where that is another user than the runner's."""


class RunActor(Actor):
    """From the claim to the acknowledged report."""

    def __init__(
        self,
        run: wire.Run,
        runner_id: str,
        context: RunContext,
        recovered: OpenRun | None = None,
        *,
        refusal: str = "",
    ) -> None:
        """`recovered`: what an earlier process has written down of it. `refusal`: why it must fail at once."""
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
            resume_from=None if recovered is None else Position(recovered.state, recovered.outcome),
        )
        self.wire_run = with_runner_values(run, context.runner_values)
        self._claimed_run = run
        self._refusal = refusal
        self.runner_id = runner_id
        self._context = context
        self._channel = SessionReporter(run.session_id, context.channels, self._is_executing, self._note)
        self._reports: list[DeliveryFuture] = []
        self._assignment = Assignment(self.wire_run, run.project_dir or context.project_dir, runner_id)
        self._execution: Execution | None = None
        self._session_status: CompletedSession = "finished"
        self._signal: StopSignal = "shutdown"
        self._left_in = ""
        self._often = ""
        """What is to be said of the times before, where it is not carried out again for them."""
        self._overrules = True
        """Whether the run's end is known better here than at the coordinator."""
        self.usage: Usage | None = None
        """What the executor says that the run has cost."""
        self.failure = ""
        """Why the run failed; empty where it did not."""
        self.unreported = ""
        """Why the coordinator has no record of how the run ended here; empty where it has one."""
        self.terminal_report: OutboundMessage | None = None
        """How the run ended, as the coordinator was told; None before."""
        self.work_done = asyncio.Event()
        """Nothing is left but to tell the coordinator how it ended."""
        self.finished = asyncio.Event()
        """Nothing of it is left."""
        if recovered is not None:
            self._take_up(recovered)

    @property
    def was_resumed(self) -> bool:
        """Whether an earlier process of the runner has begun it."""
        return self._left_at is not None

    @property
    def is_unstarted(self) -> bool:
        """Whether its executor is still to be started."""
        return self._execution is None and not self.work_done.is_set()

    def _take_up(self, recovered: OpenRun) -> None:
        self._left_in = recovered.state
        self._overrules = recovered.outcome is not None and recovered.interruptions == 0
        self.failure = recovered.failure
        if recovered.report is not None:
            report = recovered.report
            ending = RunEnding(self.name, _status(recovered.outcome), self.failure or None, report.authoritative)
            self.terminal_report = OutboundMessage(report.path, report.body, ending=ending)
        if self._context.retry_interrupted and recovered.interruptions < INTERRUPTIONS_LIMIT:
            self.model.facts = frozenset({"may_run_again"})
        elif self._context.retry_interrupted:
            self._often = f", {recovered.interruptions + 1} times; it is not carried out again"

    async def live(self) -> str:
        """Run to the end; the final state. Where it is cancelled, its next process takes it up."""
        if self._left_at is None:
            self._write_claim()
        self._show_state()
        try:
            state = await self.run()
            self._context.channels.outbox.abandon(self.wire_run.session_id, self._reports)
            self._context.record.record_run_end(self.name)
            return state
        finally:
            if self._execution is not None:
                await self._execution.aclose()
            self.work_done.set()

    def _write_claim(self) -> None:
        run = self._claimed_run
        self._context.record.record_claim(
            run.run_id, run.session_id, run.agent_name, self.runner_id, msgspec.json.encode(run)
        )

    def on_step(self, step: Step, payload: object) -> None:
        if self.model.outcome == "failed" and not self.failure:
            self.failure = self._context.channels.redactor.text(str(payload) or type(payload).__name__)
        if self._context.machine.is_final(self.model) and isinstance(payload, FsmRunnerError):
            self.unreported = why_unreported(self.model.outcome, payload)
        if step.event == "stop_requested":
            logger.info("{}: stop ({})", self.name, payload or "requested")
        logger.debug("{}: {} → {} ({})", self.name, step.source, step.target, step.event)
        self._show_state()

    def _note(self, notes: ExecutorStatus) -> None:
        """A detail stands in the journal as a step that leads nowhere."""
        if notes.status_detail is not None:
            detail = limited_error(self._context.channels.redactor.text(notes.status_detail))
            logger.info("{}: {}: {}", self.name, self.state.replace("_", " "), detail)
            self._context.observer.reported(self.wire_run, self.state, detail)
            self._record("detail", self.state, detail)
        if notes.usage is not None:
            self.usage = notes.usage
            self._context.record.record_usage(self.name, msgspec.json.encode(notes.usage))

    def _show_state(self) -> None:
        final = self._context.machine.is_final(self.model)
        self._context.observer.entered(self.wire_run, self.state, final=final)

    async def _accept(self) -> None:
        self._overrules = True
        if self._left_in:
            logger.warning("{}: is carried out again", self.name)
        await self._context.record.flush()
        if self._refusal:
            raise RunRefused(self._refusal)
        self._context.executor.accept(self.wire_run)

    async def _prepare_workspace(self) -> None:
        await in_thread(check_workspace, Path(self._assignment.project_dir), self._context.user)
        await self._context.executor.prepare(self._assignment)

    async def _execute(self) -> None:
        # Not waited for: the executor need not lose the time of a round trip, and the outbox keeps the order.
        self._put(messages.started(self.wire_run.run_id, self.runner_id))
        self._execution = await self._context.executor.start(self._assignment, self._channel)
        self._session_status = await self._execution.wait()

    async def _stop_execution(self) -> None:
        # A `started` that arrives after the stop request would put the run back to running.
        self._context.channels.outbox.withdraw(self.wire_run.session_id, self._reports)
        if self._execution is not None:
            self._signal = "SIGKILL"  # what it took at the least where the stop does not come to an end
            self._signal = await self._execution.stop()

    async def _look_up(self) -> str:
        """The reason for a failure, where the run is still this runner's. Raises `SettledElsewhere`."""
        found = await self._context.look_up(self.name)
        if found is None:
            raise SettledElsewhere("the coordinator does not know this run any more")
        if found.status == "stopping":
            self.post("stop_requested", "the coordinator asks for it")
        elif found.status not in OPEN_RUN_STATUSES:
            raise SettledElsewhere(f"the coordinator has it as {found.status} already")
        return (
            f"interrupted: the runner's process ended while the run was {self._left_in.replace('_', ' ')}{self._often}"
        )

    async def _report(self) -> None:
        # A report that is on its way from an earlier process is not sent a second time.
        answered = self._context.channels.outbox.pending_report(self.name) or self._put_terminal_report()
        self.work_done.set()
        answer = await asyncio.shield(answered)
        if isinstance(answer, Refused):
            raise answer

    def _put_terminal_report(self) -> DeliveryFuture:
        report = self.terminal_report = self.terminal_report or self._report_of_outcome()
        authoritative = not isinstance(report.ending, RunEnding) or report.ending.authoritative
        self._context.record.record_report(self.name, Report(report.path, report.body, authoritative))
        # An earlier process on a full disk may have told an end that it could not write down.
        return self._put(report, maybe_delivered=self._left_at is not None)

    def _put(self, report: OutboundMessage, *, maybe_delivered: bool = False) -> DeliveryFuture:
        answered = self._context.channels.outbox.put(self.wire_run.session_id, report, maybe_delivered=maybe_delivered)
        self._reports.append(answered)
        return answered

    def _is_executing(self) -> bool:
        return self.state == "executing"

    def _report_of_outcome(self) -> OutboundMessage:
        run_id = self.wire_run.run_id
        match self.model.outcome:
            case "completed":
                return messages.completed(run_id, self.runner_id, self._session_status)
            case "stopped":
                return messages.stopped(run_id, self.runner_id, self._signal, authoritative=self._overrules)
            case _:
                return messages.failed(
                    run_id, self.runner_id, limited_error(self.failure), authoritative=self._overrules
                )


def _status(outcome: str | None) -> RunStatus:
    return "completed" if outcome == "completed" else "stopped" if outcome == "stopped" else "failed"
