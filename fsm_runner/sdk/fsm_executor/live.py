"""A session at work: the author's code on the loop, standard input in a thread, and what ends it."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable

from fsm_executor.clock import EventClock
from fsm_executor.errors import ExecutorError, ProtocolError
from fsm_executor.inbox import EndOfInput, Message, NextTurn, Shutdown, next_message
from fsm_executor.invocation import Invocation
from fsm_executor.lines import LineReader
from fsm_executor.program import EXIT_OK, Main
from fsm_executor.session import Session, TurnNotCompleted

SHUTDOWN_GRACE_S = 2.0
"""For turns that came before the runner's shutdown; after that the work is cancelled. The runner sends SIGTERM after
5 s (section 2), so there are 3 s left for what the executor has to put away."""

UNREAD_LIMIT = 16
"""Turns taken from standard input before the work has asked for them. A runner sends one at a time."""

EXIT_TERMINATED = 128 + signal.SIGTERM


def live(main: Main, invocation: Invocation, lines: LineReader, write_line: Callable[[str], None], name: str) -> int:
    """The exit code. Raises what the author's code raises."""
    try:
        return asyncio.run(_Life(main, invocation, lines, write_line).live(name))  # noqa: TID251 - the SDK has the standard library alone
    except asyncio.CancelledError as fault:
        raise ExecutorError("the executor has cancelled its own work") from fault


class _Life:
    def __init__(
        self, main: Main, invocation: Invocation, lines: LineReader, write_line: Callable[[str], None]
    ) -> None:
        self._main = main
        self._lines = lines
        self._unread = threading.Semaphore(UNREAD_LIMIT)
        self._session = Session(invocation, write_line, EventClock(), turn_taken=self._unread.release)
        self._told_to_end: int | None = None
        """The exit code that goes with whoever told."""
        self._fault: ProtocolError | None = None

    async def live(self, name: str) -> int:
        loop = asyncio.get_running_loop()
        working = self._main(self._session)
        if not inspect.isawaitable(working):
            raise ExecutorError("the function given to fsm_executor.run has to be `async def`")
        work = asyncio.ensure_future(working)
        loop.add_signal_handler(signal.SIGTERM, self._end, work, EXIT_TERMINATED)
        # A thread reads standard input whatever it is, also a file. Nobody waits for it: it may read for ever.
        threading.Thread(target=self._listen, args=(loop, work), name=f"stdin of {name}", daemon=True).start()
        try:
            await work
        except asyncio.CancelledError:
            if self._told_to_end is None and self._fault is None:
                raise
        finally:
            self._session.close()
        if self._fault is not None:
            raise self._fault
        if self._told_to_end is None and self._session.turn_in_progress:
            raise TurnNotCompleted
        return self._told_to_end or EXIT_OK

    def _end(self, work: asyncio.Future[None], exit_code: int) -> None:
        self._told_to_end = exit_code
        self._session.end()
        work.cancel()

    def _listen(self, loop: asyncio.AbstractEventLoop, work: asyncio.Future[None]) -> None:
        """The thread. It ends with the input, or at the first message that comes after the loop has ended."""
        message: Message | ProtocolError | None = None
        while not isinstance(message, (EndOfInput, ProtocolError)):
            self._unread.acquire()
            try:
                message = next_message(self._lines)
            except ProtocolError as fault:
                message = fault
            try:
                loop.call_soon_threadsafe(self._take, message, loop, work)
            except RuntimeError:
                return  # the loop is closed

    def _take(
        self, message: Message | ProtocolError, loop: asyncio.AbstractEventLoop, work: asyncio.Future[None]
    ) -> None:
        if isinstance(message, NextTurn):
            self._session.add_turn(message.parameters)
        elif isinstance(message, ProtocolError):
            self._fault = message
            work.cancel()
        else:
            self._session.end()
            if isinstance(message, Shutdown):
                loop.call_later(SHUTDOWN_GRACE_S, self._cut_short, work)

    def _cut_short(self, work: asyncio.Future[None]) -> None:
        if self._session.turn_in_progress:
            self._end(work, EXIT_OK)
