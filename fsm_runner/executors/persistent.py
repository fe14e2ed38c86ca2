"""The process of a persistent executor: turns go in, `turn_complete` comes out. Contract: protocol.md, section 2."""

import asyncio
import contextlib

from loguru import logger

from fsm_runner.coordinator.wire import StopSignal
from fsm_runner.executors.endings import failure_text
from fsm_runner.executors.launcher import Launcher
from fsm_runner.executors.lines import LINE_LIMIT_BYTES, LineSplitter
from fsm_runner.executors.messages import SHUTDOWN_LINE, is_turn_complete
from fsm_runner.executors.port import Assignment, ExecutionFailed, SessionChannel
from fsm_runner.process.child import Exit
from fsm_runner.process.errors import InputClosed

SHUTDOWN_GRACE_S = 5.0
"""From the `shutdown` message to SIGTERM."""
EXIT_AFTER_OUTPUT_S = 2.0
"""A process that has closed its stdout may end within this time; after it, it counts as one that cannot answer."""


class PersistentProcess:
    """Started at once. `aclose` ends it and all that belongs to it."""

    def __init__(self, launcher: Launcher, assignment: Assignment, channel: SessionChannel) -> None:
        """Raises `SpawnFailed`."""
        self._session_id = assignment.run.session_id
        self._lines = LineSplitter()
        self._turn_complete: asyncio.Future[None] | None = None
        launched = launcher.launch(assignment, channel, self._read)
        self._child = launched.child
        self._door = launched.door
        self._end = asyncio.create_task(self._await_end(), name=f"end of process {self._child.pid}")

    async def take_turn(self, line: bytes) -> None:
        """Hand a turn over and return when the executor says that it is complete.

        Raises `ExecutionFailed` where the process ends before, or can never say so.
        """
        self._child.forget_output()
        complete = self._turn_complete = asyncio.get_running_loop().create_future()
        writing = asyncio.create_task(self._write(line), name=f"turn of {self._session_id}")
        try:
            await asyncio.wait({complete, self._end}, return_when=asyncio.FIRST_COMPLETED)
            if not complete.done():
                raise ExecutionFailed(_failure(self._end.result()))
            if not writing.done():
                raise ExecutionFailed("the executor said turn_complete before it had read its turn")
        finally:
            self._turn_complete = None
            writing.cancel()
            await asyncio.wait([writing])

    async def wait_for_exit(self) -> None:
        """Return when the process has ended with exit code 0. Raises `ExecutionFailed` where it ends otherwise."""
        # Awaited by way of `wait`: a wait that is cancelled must not cancel the watch.
        await asyncio.wait([self._end])
        ended = self._end.result()
        if ended is None or ended.code != 0:
            raise ExecutionFailed(_failure(ended))

    async def stop(self) -> StopSignal:
        """`shutdown`, SIGTERM, SIGKILL, with their grace between them; what it took. Raises `ProcessStuck`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_S):
                await self._write(SHUTDOWN_LINE)
                await self._child.wait()
        try:
            return await self._child.stop()
        finally:
            self._door.close()

    async def aclose(self) -> None:
        """Without grace. Raises `ProcessStuck`."""
        self._door.close()
        try:
            await self._child.stop(term_grace_s=0)
            await asyncio.wait([self._end])
        finally:
            self._end.cancel()
        await asyncio.wait([self._end])

    async def _write(self, line: bytes) -> None:
        # An executor that has closed its stdin may still be at work, and its end is noticed elsewhere.
        with contextlib.suppress(InputClosed):
            await self._child.stdin.write(line)

    def _read(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk):
            if is_turn_complete(line):
                if self._turn_complete is not None and not self._turn_complete.done():
                    self._turn_complete.set_result(None)
            elif line.cut:
                logger.warning("{}: a line of more than {:,} bytes is passed over", self._session_id, LINE_LIMIT_BYTES)

    async def _await_end(self) -> Exit | None:
        """How the process has ended; None where it is there but has closed its stdout."""
        await self._child.stdout_ended()
        try:
            async with asyncio.timeout(EXIT_AFTER_OUTPUT_S):
                return await self._child.wait()
        except TimeoutError:
            return None


def _failure(ended: Exit | None) -> str:
    if ended is None:
        return "the executor has closed its stdout, so it can complete no turn"
    return failure_text(ended)
