"""Accepts a listener's connections while there is room for them. The others wait in the system's queue.

asyncio's own servers accept every connection. When no descriptor is left they log and schedule one retry for each
connection that they could have accepted in that step, and each retry does the same.
"""

import asyncio
import errno
import math
import socket
from collections.abc import Callable
from typing import Protocol

from loguru import logger

from fsm_runner.diagnostics.rare_warning import RareWarning

ACCEPTED_AT_ONCE = 16
"""Connections accepted in one step of the event loop. Other tasks run between two steps."""
RETRY_S = 1.0
"""The wait before the next attempt when the system has no descriptor or memory for a connection."""
REPEATED_EACH_S = 60.0
"""The least time between two warnings about the same shortage: clients can cause one at any time."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

WHEN_ONE_ENDS = math.inf
"""Returned by `make_room`: the next attempt comes with `resume`, after a connection has ended."""


class Room(Protocol):
    """Decides how many connections a server holds."""

    def has_room(self, being_set_up: int) -> bool:
        """Whether one more may be accepted. `being_set_up` connections were accepted and are not set up yet."""

    def make_room(self) -> float:
        """Called when a connection waits and there is no room for it. Returns the seconds after which to try again."""


class Acceptor:
    """Owns `listener` from `start` on. `stop` ends it."""

    def __init__(
        self,
        listener: socket.socket,
        new_protocol: Callable[[], asyncio.BaseProtocol],
        *,
        name: str,
        room: Room | None = None,
    ) -> None:
        """`name` is the address for the log. `room` None: any number of connections is accepted."""
        self._listener = listener
        self._new_protocol = new_protocol
        self._name = name
        self._room = room
        self._being_set_up: set[asyncio.Task[object]] = set()
        self._is_listening = False
        self._is_stopped = False
        self._retry: asyncio.TimerHandle | None = None
        self._exhausted = RareWarning(REPEATED_EACH_S)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self.resume()

    def resume(self) -> None:
        """Accept connections again, because there may be room. Has no effect while accepting, or after `stop`."""
        if self._is_listening or self._is_stopped:
            return
        self._cancel_retry()
        self._is_listening = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Close the listener. May be repeated."""
        if not self._is_stopped:
            self._pause(WHEN_ONE_ENDS)
            self._is_stopped = True
            self._listener.close()

    async def wait_set_up(self) -> None:
        """Return when every connection that was accepted has its protocol."""
        if self._being_set_up:
            await asyncio.wait(set(self._being_set_up))

    def _accept(self) -> None:
        """The listener is readable, so at least one connection waits."""
        for number in range(ACCEPTED_AT_ONCE):
            if self._room is not None and not self._room.has_room(len(self._being_set_up)):
                if number == 0:
                    self._pause(self._room.make_room())
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as fault:
                if fault.errno in _EXHAUSTED:
                    message = "{}: no connection can be accepted now, new ones wait: {}"
                    self._exhausted.log(message, self._name, fault.strerror)
                    self._pause(RETRY_S)
                    return
                continue  # this client has closed its connection already
            connection.setblocking(False)
            work = self._loop.connect_accepted_socket(self._new_protocol, connection)
            setting_up: asyncio.Task[object] = self._loop.create_task(work, name=f"connection to {self._name}")
            self._being_set_up.add(setting_up)
            setting_up.add_done_callback(self._set_up)

    def _set_up(self, task: "asyncio.Task[object]") -> None:
        self._being_set_up.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.warning("{}: a connection could not be set up: {}", self._name, fault)
        self.resume()

    def _pause(self, wait_s: float) -> None:
        self._cancel_retry()
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener)
        if wait_s != WHEN_ONE_ENDS:
            self._retry = self._loop.call_later(wait_s, self.resume)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
