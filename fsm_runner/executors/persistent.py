"""The process of a persistent executor: turns go in, `turn_complete` comes out. Contract: protocol.md, section 2."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from loguru import logger

from fsm_runner.executors.exit_text import failure_text, with_output
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.launcher import Launcher
from fsm_runner.executors.line_splitter import LINE_LIMIT_BYTES, Line, LineSplitter
from fsm_runner.executors.messages import SHUTDOWN_LINE, TURN_COMPLETE, is_turn_complete
from fsm_runner.process.child.child import Exit
from fsm_runner.process.errors import InputClosed
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.reporting.session_channel import SessionChannel

SHUTDOWN_GRACE_S = 5.0
"""From the `shutdown` message to SIGTERM."""
EXIT_AFTER_CLOSE_S = 2.0
"""A process that has closed its stdin or stdout may end within this time; after it, it counts as one that cannot take a
turn, or complete one."""


class PersistentProcess:
    """Started at once. `aclose` ends it and all that belongs to it."""

    def __init__(self, launcher: Launcher, assignment: Assignment, channel: SessionChannel) -> None:
        """Raises `SpawnFailed`."""
        self._session_id = assignment.run.session_id
        self._lines = LineSplitter(TURN_COMPLETE)
        self._turn_complete: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        """Of the turn in progress. The first one begins with the process, whatever it says before it is asked."""
        launched = launcher.launch(assignment, channel, self._read)
        self._child = launched.child
        self._door = launched.endpoint
        self._end = asyncio.create_task(self._await_end(), name=f"end of process {self._child.pid}")

    async def take_turn(self, line: bytes) -> None:
        """Hand a turn over and return when the executor says that it is complete.

        Raises `ExecutionFailed` where the process ends before, or can never say so.
        """
        if self._turn_complete is None:
            self._turn_complete = asyncio.get_running_loop().create_future()
        complete = self._turn_complete
        handing_over = asyncio.create_task(self._hand_over(line, complete), name=f"turn of {self._session_id}")
        try:
            await self._complete_or_ended(complete)
            if self._child.exceeded is not None or not complete.done():
                raise ExecutionFailed(self._failure("before its turn was complete"))
            complete.result()
            if not handing_over.done():
                raise ExecutionFailed("the executor said turn_complete before it had read its turn")
            # What it said in this turn is no reason for a failure of a later one; what it says in between may be.
            self._child.forget_output()
        finally:
            self._turn_complete = None
            handing_over.cancel()
            await asyncio.wait([handing_over])

    async def wait_for_exit(self) -> None:
        """Return when the process has ended with exit code 0. Raises `ExecutionFailed` where it ends otherwise."""
        # Awaited by way of `wait`: a wait that is cancelled must not cancel the watch.
        await asyncio.wait([self._end])
        ended = self._end.result()
        if self._child.exceeded is not None or ended is None or not ended.succeeded:
            raise ExecutionFailed(self._failure("between two turns"))

    async def stop(self) -> StopSignal:
        """`shutdown`, SIGTERM, SIGKILL, with their grace between them; what it took. Raises `ProcessStuck`."""
        # One that has closed its stdin hears of no shutdown, and is ended by a signal at once.
        with contextlib.suppress(TimeoutError, InputClosed):
            async with asyncio.timeout(SHUTDOWN_GRACE_S):
                await self._child.stdin.write(SHUTDOWN_LINE)
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

    async def _hand_over(self, line: bytes, complete: "asyncio.Future[None]") -> None:
        """Write the turn. Where nobody will read it, its end is a failure, unless the process ends and so says more."""
        try:
            await self._child.stdin.write(line)
        except InputClosed:
            await self._complete_or_ended(complete, EXIT_AFTER_CLOSE_S)
            if not complete.done() and not self._end.done():
                reason = "the executor has closed its stdin, so it can take no turn"
                complete.set_exception(ExecutionFailed(with_output(reason, *self._child.output)))

    async def _complete_or_ended(self, complete: "asyncio.Future[None]", limit_s: float | None = None) -> None:
        either: set[asyncio.Future[Any]] = {complete, self._end}
        await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)

    def _read(self, chunk: bytes) -> None:
        self._hear(self._lines.feed(chunk))

    def _hear(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if is_turn_complete(line):
                if self._turn_complete is not None and not self._turn_complete.done():
                    self._turn_complete.set_result(None)
            elif line.cut:
                logger.warning("{}: a line of more than {:,} bytes is passed over", self._session_id, LINE_LIMIT_BYTES)

    async def _await_end(self) -> Exit | None:
        """How the process has ended; None where it is there but has closed its stdout."""
        await self._child.stdout_ended()
        try:
            async with asyncio.timeout(EXIT_AFTER_CLOSE_S):
                ended = await self._child.wait()
        except TimeoutError:
            return None
        # What the executor may have left running must not speak for the session after its end.
        self._door.close()
        if ended.code == 0:
            # It ended in order: its last line may lack a line break, and is no half of one.
            self._hear(self._lines.rest())
        return ended

    def _failure(self, when: str) -> str:
        """Why the process has ended, is ended, or can never complete a turn."""
        if self._child.exceeded is not None:
            return self._child.exceeded
        ended = self._end.result()
        if ended is None:
            return with_output("the executor has closed its stdout, so it can complete no turn", *self._child.output)
        return failure_text(ended, "the executor", when)
