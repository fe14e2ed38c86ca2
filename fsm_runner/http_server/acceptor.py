"""Accepts a listener's connections within a limit. Further ones wait in the system's queue.

asyncio's own servers have no limit. Without a free descriptor, they log and schedule a retry for each connection that
they could have accepted in that step, and each retry does the same.
"""

import asyncio
import errno
import math
import socket
from collections.abc import Callable
from typing import Protocol

from loguru import logger

from fsm_runner.diagnostics.logs import RareWarning

ACCEPTED_AT_ONCE = 16
"""Connections accepted in one step of the event loop, so that other tasks can run."""
RETRY_S = 1.0
"""The wait before the next attempt if the system has no descriptor or memory for a connection."""
REPEATED_EACH_S = 60.0
"""The shortest interval between warnings about the same shortage, which clients can cause at will."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

UNTIL_RESUMED = math.inf
"""Returned by `make_room`: do not try again before `resume`."""


class ConnectionLimit(Protocol):
    """Decides how many connections a server holds."""

    def has_room(self, pending: int) -> bool:
        """Return whether one more may be accepted. `pending` connections are accepted but have no protocol yet."""

    def make_room(self) -> float:
        """Called if a connection waits at the limit. Returns the seconds after which to try again."""


class Acceptor:
    """Owns `listener` from `start` on. End it with `stop`."""

    def __init__(
        self,
        listener: socket.socket,
        new_protocol: Callable[[], asyncio.BaseProtocol],
        *,
        name: str,
        limit: ConnectionLimit | None = None,
    ) -> None:
        """`name` is the address for the log. `limit` None accepts any number of connections."""
        self._listener = listener
        self._new_protocol = new_protocol
        self._name = name
        self._limit = limit
        self._pending: set[asyncio.Task[object]] = set()
        self._is_listening = False
        self._is_stopped = False
        self._retry: asyncio.TimerHandle | None = None
        self._exhausted = RareWarning(REPEATED_EACH_S)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self.resume()

    def resume(self) -> None:
        """Accept connections again. It has no effect while accepting and after `stop`."""
        if self._is_listening or self._is_stopped:
            return
        self._cancel_retry()
        self._is_listening = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Close the listener. May be repeated."""
        if not self._is_stopped:
            self._pause(UNTIL_RESUMED)
            self._is_stopped = True
            self._listener.close()

    async def wait_set_up(self) -> None:
        """Return when all accepted connections have their protocols."""
        if self._pending:
            await asyncio.wait(set(self._pending))

    def _accept(self) -> None:
        """Called when the listener is readable: at least one connection waits."""
        for number in range(ACCEPTED_AT_ONCE):
            if self._limit is not None and not self._limit.has_room(len(self._pending)):
                if number == 0:
                    self._pause(self._limit.make_room())
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as fault:
                if fault.errno in _EXHAUSTED:
                    message = "{}: no connection can be accepted at present, new ones wait: {}"
                    self._exhausted.log(message, self._name, fault.strerror)
                    self._pause(RETRY_S)
                    return
                continue  # the client has closed the connection already
            connection.setblocking(False)
            work = self._loop.connect_accepted_socket(self._new_protocol, connection)
            setting_up: asyncio.Task[object] = self._loop.create_task(work, name=f"connection to {self._name}")
            self._pending.add(setting_up)
            setting_up.add_done_callback(self._set_up)

    def _set_up(self, task: "asyncio.Task[object]") -> None:
        self._pending.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.warning("{}: a connection could not be set up: {}", self._name, fault)
        self.resume()

    def _pause(self, wait_s: float) -> None:
        self._cancel_retry()
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener)
        if wait_s != UNTIL_RESUMED:
            self._retry = self._loop.call_later(wait_s, self.resume)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
