"""An executor that is started anew for each run. Contract: protocol.md, section 2."""

import asyncio
import contextlib
from contextlib import ExitStack

from loguru import logger

from fsm_runner.executors.exit_text import failure_text
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.launcher import Launched, Launcher
from fsm_runner.executors.messages import invocation_line
from fsm_runner.process.errors import InputClosed
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting.session_channel import SessionChannel


class _Conversation:
    """The runs of one session, of which one has its turn."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.runs = 0
        """At work or waiting."""


class OneShotExecutor:
    """A process for each run. Those of one session come one after another, in their order: they continue each other,
    and two of them at once would each lack what the other has said."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._conversations: dict[str, _Conversation] = {}

    def accept(self, run: Run) -> None:
        """Any run: what it asks for is between its author and the executor."""

    def starts_process(self, run: Run) -> bool:
        return True

    async def prepare(self, assignment: Assignment) -> None:
        """There is nothing to bring up to date."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> "OneShotExecution":
        with ExitStack() as turn:
            await self._take_turn(assignment.run, turn)
            launched = self._launcher.launch(assignment, session)
            invocation = invocation_line(assignment, self._launcher.executor_config)
            return OneShotExecution(launched, invocation, turn.pop_all())

    async def _take_turn(self, run: Run, turn: ExitStack) -> None:
        """`turn` ends it."""
        conversation = self._conversations.setdefault(run.session_id, _Conversation())
        conversation.runs += 1
        turn.callback(self._leave, run.session_id, conversation)
        if conversation.turn.locked():
            logger.info("{}: waits for an earlier run of its session {}", run.run_id, run.session_id)
        await conversation.turn.acquire()
        turn.callback(conversation.turn.release)

    def _leave(self, session_id: str, conversation: _Conversation) -> None:
        conversation.runs -= 1
        if conversation.runs == 0:
            del self._conversations[session_id]


class OneShotExecution:
    """One process at work: the invocation goes in and stdin is closed, the exit code comes out."""

    def __init__(self, launched: Launched, invocation: bytes, turn: ExitStack) -> None:
        """`turn`: closed when the process has ended."""
        self._turn = turn
        self._child = launched.child
        self._door = launched.endpoint
        self._feeding = asyncio.create_task(self._feed(invocation), name=f"stdin of process {self._child.pid}")

    async def wait(self) -> CompletedSession:
        ended = await self._child.wait()
        self._turn.close()
        # What the executor may have left running must not speak for the session after its end.
        self._door.close()
        if not ended.succeeded:
            raise ExecutionFailed(failure_text(ended))
        return "finished"

    async def stop(self) -> StopSignal:
        try:
            return await self._child.stop()
        finally:
            self._turn.close()
            self._door.close()

    async def aclose(self) -> None:
        self._door.close()
        self._feeding.cancel()
        await asyncio.wait([self._feeding])
        try:
            await self._child.stop(term_grace_s=0)
        finally:
            self._turn.close()

    async def _feed(self, invocation: bytes) -> None:
        # An executor need not read what it does not want to know.
        with contextlib.suppress(InputClosed):
            await self._child.stdin.write(invocation)
        self._child.stdin.close()
