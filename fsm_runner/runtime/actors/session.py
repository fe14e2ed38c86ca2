"""The actor of one persistent executor. Its states are in `specs/session.toml`."""

import asyncio
from collections.abc import Collection
from itertools import compress
from typing import cast

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import Assignment, ExecutionFailed, TurnLimited
from fsm_runner.executors.messages import TurnEnd, invocation_line, turn_line
from fsm_runner.executors.persistent import PersistentProcess
from fsm_runner.executors.program import Launcher
from fsm_runner.machine.engine import Answer, Cause, Machine, Step
from fsm_runner.process.child.child import Child
from fsm_runner.protocol.statuses import CompletedSession, EndedSession, StopSignal
from fsm_runner.protocol.wire import JsonObject, Run
from fsm_runner.reporting import messages
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.messages import unreported_reason
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_channel import ExecutorEvent, ReportingContext, SessionChannel, TurnObserver
from fsm_runner.runtime.actors.actor import Actor, Position
from fsm_runner.runtime.actors.record import Record
from fsm_runner.util.error_text import headline


class SessionContext(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all sessions of one runner. Times are in seconds; None: no limit."""

    machine: Machine
    reporting: ReportingContext
    record: Record
    run_timeout_s: float | None
    session_idle_timeout_s: float | None
    revive: bool = False
    """Whether a resume of a session without a live process starts a new one."""


class Turn:
    """One run's turn in a session: the `Execution` of that run."""

    def __init__(self, session: "SessionActor", line: bytes, channel: SessionChannel | None) -> None:
        """`channel`: the run's, which gets its events; None for a session of an earlier runner process."""
        self.line = line
        """The line that is written to the executor's standard input."""
        self.channel = channel
        self.run = None if channel is None else channel.run
        """None for a session of an earlier runner process."""
        self.observer = TurnObserver() if channel is None else channel.observer
        self.finished = asyncio.Event()
        """Set when its run has been reported."""
        self._session = session
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, failure: Exception | None) -> None:
        """The first call counts."""
        if self._done.done():
            return
        if failure is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(failure)
            # Marked as retrieved, since a run that is being stopped does not wait for it.
            self._done.exception()

    @property
    def process(self) -> Child | None:
        return self._session.child

    async def wait(self) -> CompletedSession:
        await asyncio.shield(self._done)
        return "idle"

    async def stop(self) -> StopSignal:
        self._session.post("stop_requested", "its run is stopped")
        return await asyncio.shield(self._session.stop_signal)

    async def aclose(self) -> None:
        try:
            if not self._done.done():
                await self._session.kill()
        finally:
            self.finished.set()


class SessionActor(Actor):
    """Takes one executor process from its start to its end."""

    def __init__(
        self,
        first: Assignment,
        context: SessionContext,
        launcher: Launcher | None,
        resume_from: Position | None = None,
        *,
        channel: SessionChannel | None = None,
        pending_reports: Collection[asyncio.Event] = (),
    ) -> None:
        """`launcher`: None for a session of an earlier runner process, whose executor ended with that process.

        `pending_reports` are set when the runs that the session had in that process have been reported.
        """
        super().__init__(
            first.run.session_id,
            context.machine,
            {
                "start_process": self._start_process,
                "take_turn": self._take_turn,
                "await_exit": lambda: self._live_process().wait_for_exit(),
                "stop_process": self._stop_process,
                "report": self._report,
            },
            {"run_timeout_s": context.run_timeout_s, "session_idle_timeout_s": context.session_idle_timeout_s},
            recorder=context.record,
            resume_from=resume_from,
        )
        self._first = first
        self._context = context
        self._launcher = launcher
        self._process: PersistentProcess | None = None
        line = b"" if launcher is None else invocation_line(first, launcher.executor_config)
        self.turn = Turn(self, line, channel)
        """The latest turn, which may have ended."""
        self.is_replaced = False
        """Whether a run waits for the end of this process, to continue the session in a new one."""
        self._pending_reports = pending_reports
        if resume_from is not None:
            self.turn.finished.set()
        self._failure: Exception | None = None
        self.unreported = ""
        """Why the coordinator has no record of the session's end; empty if it has one."""
        self.stop_signal: asyncio.Future[StopSignal] = asyncio.get_running_loop().create_future()
        """How the executor ended."""
        self.work_done = asyncio.Event()
        """Set when no process is left and at most a report is pending. Other tasks wait for it."""
        self.is_abandoned = False
        """Whether its run is not this runner's any more."""

    @property
    def child(self) -> Child | None:
        """The executor's process; None before its start."""
        return None if self._process is None else self._process.child

    @property
    def config(self) -> JsonObject:
        """What differs in the configuration of this process."""
        return self._first.config

    @property
    def has_turn(self) -> bool:
        return self.has_tag("has_turn")

    @property
    def is_ending(self) -> bool:
        """Whether the executor ends between two turns, or has ended."""
        ends = any(map(self.has_tag, ("ends_process", "reports"))) or self._machine.is_final(self.model)
        return ends and not self.has_turn

    def facts(self) -> frozenset[str]:
        facts = {
            "is_continued": self.is_replaced or self.turn.observer.continues_session,
            "is_revivable": self._context.revive,
        }
        return frozenset(compress(facts, facts.values()))

    def further_turn(self, run: Run, channel: SessionChannel) -> Turn | None:
        """Begin the run's turn. Return None if the executor has ended. Raises `ExecutionFailed` if it has a turn."""
        turn = Turn(self, turn_line(run), channel)
        if self.request("turn_requested", turn, run.run_id) is Answer.TAKEN:
            return turn
        if self.has_turn:
            raise ExecutionFailed(f"session {self.name} is busy: its executor has not completed its turn yet")
        return None

    async def live(self) -> str:
        """Run to a final state and return it. No process of the executor is left then."""
        if not self.was_resumed:
            run = msgspec.json.encode(self._first.run)
            self._context.record.record_session_start(self.name, self._first.runner_id, run)
        try:
            return await self.run()
        finally:
            if self.is_replaced or self._machine.is_final(self.model):
                self._context.record.record_session_end(self.name)
            self.turn.end(ExecutionFailed(f"session {self.name} was given up"))
            await self.kill()
            self._set_stop_signal("SIGKILL")
            self.work_done.set()

    def abandon(self, refusal: Refused) -> None:
        """End the executor and report nothing, since the session's run is not this runner's any more."""
        self.is_abandoned = True
        self.post("reassigned", refusal)

    async def kill(self) -> None:
        """Kill the process at once; the machine learns of the exit."""
        if self._process is not None:
            await self._process.aclose()

    def on_step(self, step: Step, payload: object) -> None:
        logger.debug("{}: {} → {} ({})", self.name, step.source, step.target, step.event)
        had_turn = self._machine.has_tag(step.source, "has_turn")
        if isinstance(payload, Turn):
            self.turn = payload
        if self.model.outcome is not None and self._failure is None:
            ended = f"session {self.name} has ended: {payload or 'its executor is gone'}"
            self._failure = payload if isinstance(payload, FsmRunnerError) else ExecutionFailed(ended)
            if not (had_turn or self.was_resumed):
                logger.info("{}: its executor ends between turns: {}", self.name, _reason(step, payload))
        if had_turn and not self.has_turn:
            # A failed turn ends only now, after the processes that its run started.
            self.turn.end(self._failure or (payload if isinstance(payload, TurnLimited) else None))
        if self._machine.has_tag(step.source, "ends_process"):
            self._set_stop_signal("SIGKILL")
        elif self.model.outcome is not None and not self.has_tag("ends_process"):
            self._set_stop_signal("shutdown")
        if self._machine.has_tag(step.source, "reports") and step.cause is not Cause.DONE:
            self.unreported = unreported_reason(self.model.outcome, cast(Exception, payload))

    async def _start_process(self) -> None:
        if self._launcher is None:
            raise ExecutionFailed(f"session {self.name} has nothing to start")
        channel = _ExecutorChannel(self, self._context.reporting)
        self._process = PersistentProcess(self._launcher, self._first, channel)

    async def _take_turn(self) -> TurnLimited | None:
        """Return the reason for which the turn ended without a result, if the executor has survived that."""
        if await self._live_process().take_turn(self.turn.line) is TurnEnd.COMPLETE:
            return None
        return TurnLimited("the executor reports that a limit of its provider is reached")

    def _live_process(self) -> PersistentProcess:
        if self._process is None:
            raise ExecutionFailed(f"session {self.name} has no process")
        return self._process

    async def _stop_process(self) -> None:
        self._set_stop_signal("shutdown" if self._process is None else await self._process.stop())

    def _set_stop_signal(self, signal: StopSignal) -> None:
        """The first call counts."""
        if not self.stop_signal.done():
            self.stop_signal.set_result(signal)

    async def _report(self) -> None:
        self.work_done.set()
        # The report of the session's last run would set the session to idle.
        for reported in (self.turn.finished, *self._pending_reports):
            await reported.wait()
        outcome = cast(EndedSession, self.model.outcome)
        report = messages.session_ended(self.name, self._first.runner_id, outcome, self.turn.run)
        outbox = self._context.reporting.outbox
        answer = await asyncio.shield(outbox.pending_report(self.name) or outbox.put(self.name, report))
        if isinstance(answer, Refused):
            raise answer


class _ExecutorChannel(SessionChannel):
    """The channel of one process. The events of a turn, and of what its run does next, go through the run's channel."""

    def __init__(self, session: SessionActor, context: ReportingContext) -> None:
        super().__init__(session.name, context, lambda: session.has_turn, _TurnForwarder(session))
        self._session = session
        if session.turn.channel is not None:
            self.last_bind = session.turn.channel.last_bind

    @property
    def run(self) -> Run | None:
        return self._session.turn.run

    def bind(self, executor_session_id: str, project_dir: str | None) -> DeliveryFuture:
        delivery = super().bind(executor_session_id, project_dir)
        if self._session.turn.channel is not None:
            self._session.turn.channel.last_bind = self.last_bind
        return delivery

    def event(self, event: ExecutorEvent, body: bytes) -> DeliveryFuture | None:
        turn = self._session.turn
        if turn.channel is not None and (self._session.has_turn or turn.observer.continues_session):
            return turn.channel.event(event, body)
        return super().event(event, body)


class _TurnForwarder(TurnObserver):
    """Passes on what an executor reports to the run whose turn is in progress."""

    def __init__(self, session: SessionActor) -> None:
        self._session = session

    def note_status(self, status: ExecutorStatus) -> None:
        if self._session.has_turn:
            self._session.turn.observer.note_status(status)

    def note_bind(self) -> None:
        if self._session.has_turn:
            self._session.turn.observer.note_bind()


def no_live_executor(session_id: str) -> ExecutionFailed:
    return ExecutionFailed(
        f"session {session_id} has no live executor on this runner, so it cannot be resumed here; start a new session "
        "(an executor lives on in the runner that started it, until that one or the session's idle time ends)"
    )


def _reason(step: Step, payload: object) -> str:
    event = step.event.replace("_", " ")
    detail = headline(str(payload)) if isinstance(payload, str | ExecutionFailed) else ""
    return f"{event}: {detail}" if detail else event
