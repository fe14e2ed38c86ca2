"""The persistent executors of a runner."""

import asyncio
import time
from collections.abc import Collection
from typing import NoReturn

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.program import Launcher
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting.session_channel import SessionChannel
from fsm_runner.runtime.actors.actor import Position, took_text
from fsm_runner.runtime.actors.session import SessionActor, SessionContext, Turn, no_live_executor
from fsm_runner.util.tasks import OwnedTasks, wait_forever


class SessionRegistry:
    """The sessions of one runner by id. It owns their tasks; `aclose` ends those that are left."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._actors: dict[str, SessionActor] = {}
        self._tasks = OwnedTasks("session")

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_at_work(self) -> bool:
        """Whether more than reports is pending."""
        return any(not actor.work_done.is_set() for actor in self._actors.values())

    @property
    def revives(self) -> bool:
        """Whether a resume of a session without a live process starts a new one."""
        return self._context.revive

    def find(self, session_id: str) -> SessionActor | None:
        return self._actors.get(session_id)

    def start(self, first: Assignment, launcher: Launcher, channel: SessionChannel) -> SessionActor:
        return self._add(SessionActor(first, self._context, launcher, channel=channel))

    def resume(self, first: Assignment, position: Position, pending_reports: Collection[asyncio.Event]) -> SessionActor:
        """Bring a session of an earlier process of this runner to its end."""
        logger.info("{}: its executor ended with the earlier runner process", first.run.session_id)
        return self._add(SessionActor(first, self._context, None, position, pending_reports=pending_reports))

    def forget(self, session_id: str) -> None:
        """Report nothing about a session of an earlier process, because one of its runs continues."""
        self._context.record.record_session_end(session_id)

    async def replace(self, actor: SessionActor) -> None:
        """Wait until no process of the session is left, and forget it. Its end is not reported if that has not begun.

        The report would otherwise follow that of the start of the run which continues the session.
        """
        actor.is_replaced = True
        await actor.work_done.wait()
        if self._actors.get(actor.name) is not actor:
            return
        await self._tasks.cancel(actor.name)
        outbox = self._context.reporting.outbox
        if (report := outbox.pending_report(actor.name)) is not None:
            outbox.withdraw(actor.name, [report])

    def _add(self, actor: SessionActor) -> SessionActor:
        self._actors[actor.name] = actor
        self._tasks.start(actor.name, self._live(actor))
        return actor

    def stop_idle(self, session_id: str, reason: str) -> None:
        """End the session's executor if no run has it. A run that has it is stopped itself."""
        if (actor := self._actors.get(session_id)) is not None and not actor.has_turn:
            actor.post("stop_requested", reason)

    def abandon(self, session_id: str, run_id: str, refusal: Refused) -> None:
        """End the session's executor and report nothing, if its last turn belongs to this run."""
        actor = self._actors.get(session_id)
        if actor is not None and (actor.turn.run is None or actor.turn.run.run_id == run_id):
            actor.abandon(refusal)

    async def wait_until_abandoned(self, session_id: str) -> None:
        """Wait until nothing is left of a session that is being abandoned, so that its run can begin again."""
        while (actor := self._actors.get(session_id)) is not None and actor.is_abandoned:
            await self._tasks.wait_for(session_id)

    async def abandon_all(self, refusal: Refused) -> None:
        """End all executors, report nothing, and return when they have ended."""
        for actor in self._actors.values():
            actor.abandon(refusal)
        await self._tasks.wait_until_empty()

    def close_idle(self, reason: str) -> None:
        """End the executors that have no turn."""
        for actor in self._actors.values():
            actor.post("close_requested", reason)

    async def wait_until_idle(self, reason: str) -> None:
        """End the idle executors and return when no process is left. Call this when no run is active."""
        self.close_idle(reason)
        for actor in list(self._actors.values()):
            await actor.work_done.wait()

    async def close(self, reason: str) -> None:
        """End the idle executors and return when their ends are reported. Call this when no run is active."""
        self.close_idle(reason)
        await self._tasks.wait_until_empty()

    async def aclose(self) -> None:
        """Kill the executors that are left."""
        await self._tasks.aclose()

    async def _live(self, actor: SessionActor) -> None:
        began_s = time.monotonic()
        try:
            state = await actor.live()
        finally:
            if self._actors.get(actor.name) is actor:
                del self._actors[actor.name]
        took = took_text(time.monotonic() - began_s, actor)
        if actor.unreported:
            logger.warning("{}: {} after {}: {}", actor.name, state, took, actor.unreported)
        else:
            logger.info("{}: {} after {}", actor.name, state, took)


class PersistentExecutor(msgspec.Struct, frozen=True):
    """The `Executor` of profiles whose `lifecycle` is persistent: each run is a turn of its session's process."""

    sessions: SessionRegistry
    launcher: Launcher

    def accept(self, run: Run) -> None:
        """Accept any run; its executor judges the parameters."""

    def starts_process(self, run: Run) -> bool:
        if run.type != "resume_session":
            return True
        return self.sessions.revives and self.sessions.find(run.session_id) is None

    def can_continue(self, session_id: str) -> bool:
        live = self.sessions.find(session_id)
        return self.sessions.revives or (live is not None and not (live.was_resumed or live.is_ending))

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        if self.sessions.revives:
            await wait_forever()
        if (live := self.sessions.find(session_id)) is not None:
            await live.work_done.wait()
        raise _lost(session_id)

    async def end_session(self, session_id: str) -> None:
        if (live := self.sessions.find(session_id)) is not None:
            self.sessions.stop_idle(session_id, "its run does not continue in this process")
            await self.sessions.replace(live)

    async def prepare(self, assignment: Assignment) -> None:
        """Nothing to fetch."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> Turn:
        """Raises `ExecutionFailed` if a resume finds its session busy or without a live executor."""
        run = assignment.run
        is_resume = run.type == "resume_session"
        # Looked up again after each wait, in which another run may have started the session.
        while (live := self.sessions.find(run.session_id)) is not None:
            if is_resume and live.was_resumed and not self.sessions.revives:
                raise _no_executor_for(assignment)
            if not live.was_resumed and not (live.is_ending and self.sessions.revives):
                if not (is_resume or assignment.continues):
                    raise ExecutionFailed(f"session {run.session_id} has a live executor already; resume it instead")
                if assignment.continues and live.config != assignment.config and not live.has_turn:
                    await self._end_for_another_configuration(live)
                    continue
                if (turn := live.further_turn(run, session)) is not None:
                    return turn
                if not self.sessions.revives:
                    raise _no_executor_for(assignment)
            await self.sessions.replace(live)
        if is_resume and not self.sessions.revives:
            raise _no_executor_for(assignment)
        return self.sessions.start(assignment, self.launcher, session).turn

    async def _end_for_another_configuration(self, live: SessionActor) -> None:
        """Raises `ExecutionFailed` if no new process can continue the session."""
        if not self.sessions.revives:
            raise ExecutionFailed(
                f"a turn with another `config` needs a new process, and the profile does not set `revive`, so session "
                f"{live.name} would not continue in it"
            )
        await self.end_session(live.name)


def _no_executor_for(assignment: Assignment) -> ExecutionFailed:
    session_id = assignment.run.session_id
    return _lost(session_id) if assignment.continues else no_live_executor(session_id)


def _lost(session_id: str) -> ExecutionFailed:
    return ExecutionFailed(
        f"the executor of session {session_id} ended between two turns of its run, and the profile does not set "
        "`revive`, so the session cannot continue"
    )
