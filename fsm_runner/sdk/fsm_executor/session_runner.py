"""Runs a session: `main` on the event loop, and a thread that reads standard input."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable

from fsm_executor.clock import EventClock
from fsm_executor.errors import EXIT_OK, ExecutorError, ProtocolError
from fsm_executor.invocation import Invocation
from fsm_executor.lines import LineReader
from fsm_executor.messages import EndOfInput, Message, NextTurn, Shutdown, next_message
from fsm_executor.session import Main, Session, TurnNotCompleted

SHUTDOWN_GRACE_S = 2.0
"""The time from the runner's shutdown message to the cancellation of `main`, if a turn is in progress. The runner sends
SIGTERM after 5 s (section 2), so `main` has 3 s for its cleanup."""

READ_AHEAD_TURNS = 16
"""The maximum number of turns that are read ahead. A runner sends one at a time."""

EXIT_TERMINATED = 128 + signal.SIGTERM


def run_session(
    main: Main, invocation: Invocation, lines: LineReader, write_line: Callable[[str], None], name: str
) -> int:
    """Run `main`, and return the exit code. Raises the exceptions of `main`."""
    try:
        return asyncio.run(_SessionRunner(main, invocation, lines, write_line).run(name))  # noqa: TID251 - the SDK uses only the standard library
    except asyncio.CancelledError as fault:
        raise ExecutorError("the executor cancelled its own main task") from fault


class _SessionRunner:
    def __init__(
        self, main: Main, invocation: Invocation, lines: LineReader, write_line: Callable[[str], None]
    ) -> None:
        self._main = main
        self._lines = lines
        self._read_ahead = threading.Semaphore(READ_AHEAD_TURNS)
        self._session = Session(invocation, write_line, EventClock(), turn_taken=self._read_ahead.release)
        self._exit_code: int | None = None
        """Set when SIGTERM or the runner's shutdown ends the session."""
        self._fault: ProtocolError | None = None

    async def run(self, name: str) -> int:
        loop = asyncio.get_running_loop()
        main = self._main(self._session)
        if not inspect.isawaitable(main):
            raise ExecutorError("the function given to fsm_executor.run must be `async def`")
        task = asyncio.ensure_future(main)
        loop.add_signal_handler(signal.SIGTERM, self._end, task, EXIT_TERMINATED)
        # A thread can read any kind of standard input, such as a file. A daemon, because a read may never return.
        threading.Thread(target=self._read_messages, args=(loop, task), name=f"stdin of {name}", daemon=True).start()
        try:
            await task
        except asyncio.CancelledError:
            if self._exit_code is None and self._fault is None:
                raise
        finally:
            self._session.close()
        if self._fault is not None:
            raise self._fault
        if self._exit_code is None and self._session.turn_in_progress:
            raise TurnNotCompleted
        if self._exit_code is None and (error := self._session.limit_reached) is not None:
            raise error
        return self._exit_code or EXIT_OK

    def _end(self, task: asyncio.Future[None], exit_code: int) -> None:
        self._exit_code = exit_code
        self._session.stop()
        task.cancel()

    def _read_messages(self, loop: asyncio.AbstractEventLoop, task: asyncio.Future[None]) -> None:
        """Read messages until the end of the input, or until the loop is closed. Runs in the thread."""
        message: Message | ProtocolError | None = None
        while not isinstance(message, (EndOfInput, ProtocolError)):
            self._read_ahead.acquire()
            try:
                message = next_message(self._lines)
            except ProtocolError as fault:
                message = fault
            try:
                loop.call_soon_threadsafe(self._handle, message, loop, task)
            except RuntimeError:
                return  # the loop is closed

    def _handle(
        self, message: Message | ProtocolError, loop: asyncio.AbstractEventLoop, task: asyncio.Future[None]
    ) -> None:
        if isinstance(message, NextTurn):
            self._session.add_turn(message.parameters)
        elif isinstance(message, ProtocolError):
            self._fault = message
            task.cancel()
        elif isinstance(message, Shutdown):
            self._session.stop()
            loop.call_later(SHUTDOWN_GRACE_S, self._end_if_busy, task)
        else:
            self._session.end_of_input()

    def _end_if_busy(self, task: asyncio.Future[None]) -> None:
        if self._session.turn_in_progress:
            self._end(task, EXIT_OK)
