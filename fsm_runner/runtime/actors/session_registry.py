"""The persistent executors that live on between runs."""

import asyncio
import time

from loguru import logger

from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.launcher import Launcher
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting.session_channel import SessionChannel
from fsm_runner.runtime.actors.actor import Position
from fsm_runner.runtime.actors.session import OnStatus, SessionActor, SessionContext, Turn, no_live_executor


class SessionRegistry:
    """Those of one runner, by session. Owns their tasks; `aclose` ends whatever is left."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._actors: dict[str, SessionActor] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def find(self, session_id: str) -> SessionActor | None:
        return self._actors.get(session_id)

    def begin(self, first: Assignment, launcher: Launcher, on_status: OnStatus) -> SessionActor:
        return self._add(SessionActor(first, self._context, launcher, on_status=on_status))

    def resume(self, first: Assignment, resume_from: Position) -> SessionActor:
        """Bring to its end what an earlier process of this runner had."""
        return self._add(SessionActor(first, self._context, None, resume_from))

    def _add(self, actor: SessionActor) -> SessionActor:
        self._actors[actor.name] = actor
        task = asyncio.create_task(self._live(actor), name=f"session {actor.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return actor

    def stop_idle(self, session_id: str, reason: str) -> None:
        """End the executor of this session where no run has it; a run that has is stopped itself."""
        actor = self._actors.get(session_id)
        if actor is not None and actor.state == "idle":
            actor.post("stop_requested", reason)

    async def wait_until_idle(self, reason: str) -> None:
        """End all that wait for a turn, and return when no process is left. Nothing may have a turn then."""
        self.close_idle(reason)
        for actor in list(self._actors.values()):
            await actor.work_done.wait()

    async def close(self, reason: str) -> None:
        """End all that wait for a turn, and return when none is left. Nothing may have a turn then."""
        self.close_idle(reason)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def close_idle(self, reason: str) -> None:
        for actor in self._actors.values():
            actor.post("close_requested", reason)

    async def aclose(self) -> None:
        """Kill what still lives."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _live(self, actor: SessionActor) -> None:
        began_s = time.monotonic()
        try:
            state = await actor.live()
        finally:
            if self._actors.get(actor.name) is actor:
                del self._actors[actor.name]
        took_s = time.monotonic() - began_s
        if actor.unreported:
            logger.warning("{}: {} after {:.2f} s: {}", actor.name, state, took_s, actor.unreported)
        else:
            logger.info("{}: {} after {:.2f} s", actor.name, state, took_s)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.opt(exception=fault).error("{} broke; the other sessions go on", task.get_name())


class PersistentExecutor:
    """The `Executor` of profiles whose `lifecycle` is persistent: each run is a turn of its session's process."""

    def __init__(self, sessions: SessionRegistry, launcher: Launcher) -> None:
        self._sessions = sessions
        self._launcher = launcher

    def accept(self, run: Run) -> None:
        """Any run: what it asks for is between its author and the executor."""

    def starts_process(self, run: Run) -> bool:
        return run.type != "resume_session"

    async def prepare(self, assignment: Assignment) -> None:
        """There is nothing to bring up to date."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> Turn:
        """Raises `ExecutionFailed` where a resume finds its session busy or without a live executor."""
        run = assignment.run
        live = self._sessions.find(run.session_id)
        if run.type == "resume_session":
            if live is None:
                raise no_live_executor(run.session_id)
            return live.further_turn(run, session.report_status)
        if live is not None:
            raise ExecutionFailed(f"session {run.session_id} has a live executor already; resume it instead")
        return self._sessions.begin(assignment, self._launcher, session.report_status).first_turn
