"""One persistent executor: lives the life of `specs/session.toml`."""

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.launcher import Launcher
from fsm_runner.executors.messages import invocation_line, turn_line
from fsm_runner.executors.persistent import PersistentProcess
from fsm_runner.machine.engine import Machine, Step
from fsm_runner.protocol.statuses import CompletedSession, EndedSession, StopSignal
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting import messages
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.session_reporter import ReportingContext, SessionReporter
from fsm_runner.reporting.unreported import why_unreported
from fsm_runner.runtime.actors.actor import Actor, Position, TimeLimitExceeded
from fsm_runner.runtime.actors.record import Record
from fsm_runner.util.error_text import headline

OnStatus = Callable[[ExecutorStatus], None]


def _noted_by_nobody(_: ExecutorStatus) -> None:
    pass


class SessionContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all sessions of one runner share. Times are in seconds; None: no limit."""

    machine: Machine
    channels: ReportingContext
    record: Record
    run_timeout_s: float | None
    session_idle_timeout_s: float | None


class Turn:
    """What one run wants of a session: the `Execution` of that run."""

    def __init__(self, session: "SessionActor", line: bytes, on_status: OnStatus) -> None:
        self.line = line
        self.on_status = on_status
        """Told what is for the record of its run."""
        self.finished = asyncio.Event()
        """Its run has ended and been reported."""
        self._session = session
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def complete(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def fail(self, reason: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(reason)
            # A run that is being stopped does not ask any more.
            self._done.exception()

    async def wait(self) -> CompletedSession:
        await asyncio.shield(self._done)
        return "idle"

    async def stop(self) -> StopSignal:
        self._session.post("stop_requested", "its run is stopped")
        return await self._session.ending()

    async def aclose(self) -> None:
        try:
            if not self._done.done():
                await self._session.kill()
        finally:
            self.finished.set()


class SessionActor(Actor):
    """From the start of the executor's process to its end."""

    def __init__(
        self,
        first: Assignment,
        context: SessionContext,
        launcher: Launcher | None,
        resume_from: Position | None = None,
        on_status: OnStatus = _noted_by_nobody,
    ) -> None:
        """`resume_from`: the session's position when an earlier runner process ended. Its executor ended too, so
        nothing is launched."""
        super().__init__(
            first.run.session_id,
            context.machine,
            {
                "start_process": self._start_process,
                "take_turn": self._take_turn,
                "await_exit": self._await_exit,
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
        self.first_turn = Turn(
            self, b"" if launcher is None else invocation_line(first, launcher.executor_config), on_status
        )
        """The turn that starts the session."""
        self._turn: Turn | None = self.first_turn
        self._latest_turn = self.first_turn
        self._ended_between_turns = False
        self._told_first: tuple[asyncio.Event, ...] = ()
        self.work_done = asyncio.Event()
        """No process is left; at most the coordinator is to be told."""
        self._failure: Exception | None = None
        self.unreported = ""
        """Why the coordinator has no record of how the session ended here; empty where it has one."""
        self._ending: asyncio.Future[StopSignal] = asyncio.get_running_loop().create_future()

    def had_its_turns(self, told_first: Iterable[asyncio.Event]) -> None:
        """No turn was in progress when the earlier process ended. `told_first`: the ends of runs that it had not told
        yet."""
        self._complete_turn()
        self._latest_turn.finished.set()
        self._told_first = tuple(told_first)
        self._ended_between_turns = True

    def further_turn(self, run: Run, on_status: OnStatus) -> Turn:
        """Raises `ExecutionFailed` where the executor has a turn already, or has ended."""
        if self._turn is not None:
            raise ExecutionFailed(f"session {self.name} is busy: its executor has not completed its turn yet")
        if self.state != "idle":
            raise no_live_executor(self.name)
        self._turn = self._latest_turn = Turn(self, turn_line(run), on_status)
        self.post("turn_requested", run.run_id)
        return self._turn

    async def live(self) -> str:
        """Run to the end; the final state. Nothing of the executor is left then."""
        if self._left_at is None:
            run = self._first.run
            self._context.record.record_session_start(self.name, self._first.runner_id, msgspec.json.encode(run))
        try:
            state = await self.run()
            self._context.record.record_session_end(self.name)
            return state
        finally:
            self._fail_turn(ExecutionFailed(f"session {self.name} was given up"))
            await self.kill()
            self._settle_ending("SIGKILL")
            self.work_done.set()

    async def ending(self) -> StopSignal:
        """What it took to end the executor, once it has ended."""
        return await asyncio.shield(self._ending)

    async def kill(self) -> None:
        """End the process at once; the machine notices by itself."""
        if self._process is not None:
            await self._process.aclose()

    def on_step(self, step: Step, payload: object) -> None:
        logger.debug("{}: {} → {} ({})", self.name, step.source, step.target, step.event)
        if step.event == "turn_completed":
            self._complete_turn()
        elif step.source == "idle" and step.target != "busy":
            self._ended_between_turns = True
            logger.info("{}: its executor ends between turns: {}", self.name, _reason(step, payload))
        if self._context.machine.is_final(self.model) and isinstance(payload, Refused | TimeLimitExceeded):
            self.unreported = why_unreported(self.model.outcome, payload)
        if step.target == "stopping":
            self._failure = _as_failure(self.name, payload)
        if step.target == "reporting":
            # Not before: what a run has started is gone when the run ends.
            self._settle_ending("SIGKILL" if step.source == "stopping" else "shutdown")
            self._fail_turn(self._failure or _as_failure(self.name, payload))

    def _complete_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.complete()

    def _fail_turn(self, reason: Exception) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.fail(reason)

    async def _start_process(self) -> None:
        if self._launcher is None:
            raise ExecutionFailed(f"session {self.name} has nothing to start")
        channel = SessionReporter(self.name, self._context.channels, self._has_turn, self._note)
        self._process = PersistentProcess(self._launcher, self._first, channel)

    async def _take_turn(self) -> None:
        await self._running().take_turn(self._latest_turn.line)

    async def _await_exit(self) -> None:
        await self._running().wait_for_exit()

    def _running(self) -> PersistentProcess:
        if self._process is None:
            raise ExecutionFailed(f"session {self.name} has no process")
        return self._process

    async def _stop_process(self) -> None:
        ending: StopSignal = "shutdown"
        if self._process is not None:
            ending = await self._process.stop()
        self._settle_ending(ending)

    def _settle_ending(self, ending: StopSignal) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _report(self) -> None:
        self.work_done.set()
        if not self._ended_between_turns:
            return
        # After the report of the run that had the last turn, which makes the session idle.
        for over in (self._latest_turn.finished, *self._told_first):
            await over.wait()
        status = cast(EndedSession, self.model.outcome)
        report = messages.session_ended(self.name, self._first.runner_id, status)
        outbox = self._context.channels.outbox
        answer = await asyncio.shield(outbox.pending_report(self.name) or outbox.put(self.name, report))
        if isinstance(answer, Refused):
            raise answer

    def _note(self, notes: ExecutorStatus) -> None:
        if self._turn is not None:
            self._turn.on_status(notes)

    def _has_turn(self) -> bool:
        return self._turn is not None


def no_live_executor(session_id: str) -> ExecutionFailed:
    return ExecutionFailed(
        f"session {session_id} has no live executor on this runner, so it cannot be resumed here; start a new session "
        "(an executor lives on in the runner that started it, until that one or the session's idle time ends)"
    )


def _reason(step: Step, payload: object) -> str:
    event = step.event.replace("_", " ")
    said = headline(str(payload)) if isinstance(payload, str | ExecutionFailed) else ""
    return f"{event}: {said}" if said else event


def _as_failure(session_id: str, payload: object) -> Exception:
    if isinstance(payload, FsmRunnerError):
        return payload
    return ExecutionFailed(f"session {session_id} has ended: {payload or 'its executor is gone'}")
