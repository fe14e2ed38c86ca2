"""The process of a persistent executor, which takes turns. Contract: protocol.md, section 2."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from loguru import logger

from fsm_runner.executors.exit_text import failure_text, with_output
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.line_splitter import LINE_LIMIT_BYTES, Line, LineSplitter
from fsm_runner.executors.messages import SHUTDOWN_LINE, TURN_COMPLETE, TurnEnd, turn_end
from fsm_runner.executors.program import Launcher
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.errors import InputClosed
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.reporting.session_channel import SessionChannel

SHUTDOWN_GRACE_S = 5.0
"""From the `shutdown` message to SIGTERM."""
EXIT_AFTER_CLOSE_S = 2.0
"""How long a process that has closed its stdin or stdout may take to end before its turn fails."""


class PersistentProcess:
    """The constructor starts the process. `aclose` ends it and releases its resources."""

    def __init__(self, launcher: Launcher, assignment: Assignment, channel: SessionChannel) -> None:
        """Raises `SpawnFailed`."""
        self._session_id = assignment.run.session_id
        self._lines = LineSplitter(TURN_COMPLETE)
        self._turn_complete: asyncio.Future[TurnEnd] | None = asyncio.get_running_loop().create_future()
        """Resolved when the turn in progress is complete. The first turn begins with the process."""
        self._child, self._endpoint = launcher.launch(assignment, channel, self._session_id, self._read)
        self._end = asyncio.create_task(self._await_end(), name=f"end of process {self._child.pid}")

    @property
    def child(self) -> Child:
        return self._child

    async def take_turn(self, line: bytes) -> TurnEnd:
        """Write a turn, and return how it ended when the executor reports that.

        Raises `ExecutionFailed` if the process ends before, or can no longer report it.
        """
        if self._turn_complete is None:
            self._turn_complete = asyncio.get_running_loop().create_future()
        complete = self._turn_complete
        writing = asyncio.create_task(self._write_turn(line, complete), name=f"turn of {self._session_id}")
        try:
            await self._complete_or_ended(complete)
            if self._child.exceeded is not None or not complete.done():
                raise ExecutionFailed(self._failure("before its turn was complete"))
            end = complete.result()
            if not writing.done():
                raise ExecutionFailed("the executor sent turn_complete before it had read its turn")
            # The output of this turn does not explain the failure of a later one; output between the turns may.
            self._child.output.forget()
            return end
        finally:
            self._turn_complete = None
            writing.cancel()
            await asyncio.wait([writing])

    async def wait_for_exit(self) -> None:
        """Return when the process has ended with exit code 0. Raises `ExecutionFailed` if it ends otherwise."""
        # Not awaited directly, because a cancelled wait must not cancel the task.
        await asyncio.wait([self._end])
        ended = self._end.result()
        if self._child.exceeded is not None or ended is None or not ended.succeeded:
            raise ExecutionFailed(self._failure("between two turns"))

    async def stop(self) -> StopSignal:
        """Send `shutdown`, then SIGTERM, then SIGKILL. Return the last that was needed. Raises `ProcessStuck`."""
        # A process that has closed its stdin cannot get the message, so it gets SIGTERM at once.
        with contextlib.suppress(TimeoutError, InputClosed):
            async with asyncio.timeout(SHUTDOWN_GRACE_S):
                await self._child.stdin.write(SHUTDOWN_LINE)
                await self._child.wait()
        try:
            return await self._child.stop()
        finally:
            self._endpoint.close()

    async def aclose(self) -> None:
        """Kill the process without a grace period. Raises `ProcessStuck`."""
        self._endpoint.close()
        try:
            await self._child.stop(term_grace_s=0)
            await asyncio.wait([self._end])
        finally:
            self._end.cancel()
        await asyncio.wait([self._end])

    async def _write_turn(self, line: bytes, complete: "asyncio.Future[TurnEnd]") -> None:
        """Write the turn. If the process has closed its stdin but does not end, the turn fails."""
        try:
            await self._child.stdin.write(line)
        except InputClosed:
            await self._complete_or_ended(complete, EXIT_AFTER_CLOSE_S)
            if not complete.done() and not self._end.done():
                reason = "the executor has closed its stdin, so it cannot take a turn"
                complete.set_exception(ExecutionFailed(with_output(reason, *self._child.output.captures)))

    async def _complete_or_ended(self, complete: "asyncio.Future[TurnEnd]", limit_s: float | None = None) -> None:
        either: set[asyncio.Future[Any]] = {complete, self._end}
        await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)

    def _read(self, chunk: bytes) -> None:
        self._handle(self._lines.feed(chunk))

    def _handle(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if (end := turn_end(line)) is not None:
                if self._turn_complete is not None and not self._turn_complete.done():
                    self._turn_complete.set_result(end)
            elif line.cut:
                logger.warning("{}: skipping a line of more than {:,} bytes", self._session_id, LINE_LIMIT_BYTES)

    async def _await_end(self) -> Exit | None:
        """Wait for the end. Return None if the process has closed its stdout but not ended."""
        await self._child.output.stdout_ended.wait()
        try:
            async with asyncio.timeout(EXIT_AFTER_CLOSE_S):
                ended = await self._child.wait()
        except TimeoutError:
            return None
        # Processes that the executor left behind must not report for the session after its end.
        self._endpoint.close()
        if ended.code == 0:
            # Only after a successful end is a last line without a line break complete.
            self._handle(self._lines.rest())
        return ended

    def _failure(self, when: str) -> str:
        """Return why the process has ended or cannot complete a turn."""
        if self._child.exceeded is not None:
            return self._child.exceeded
        ended = self._end.result()
        if ended is None:
            reason = "the executor has closed its stdout, so it cannot complete a turn"
            return with_output(reason, *self._child.output.captures)
        return failure_text(ended, "the executor", when)
