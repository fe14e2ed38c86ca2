"""Limits the requests of one client that are served at once. Further ones wait in order of arrival."""

import asyncio
from collections import deque
from collections.abc import Hashable


class Overloaded(Exception):
    """The request has lost its place in the queue."""


class _Queue:
    def __init__(self) -> None:
        self.served = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class RequestLimiter:
    """Serves up to `served_at_once` requests of each client. Call `release` after each request that was served."""

    def __init__(self, served_at_once: int) -> None:
        self._served_at_once = served_at_once
        self._queues: dict[Hashable, _Queue] = {}

    def acquire(self, client: Hashable) -> "asyncio.Future[None] | None":
        """Return None if the request can be served now, or else a future for `wait`.

        An exception that is set on the future ends the wait.
        """
        queue = self._queues.setdefault(client, _Queue())
        if queue.served < self._served_at_once:
            queue.served += 1
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.waiting.append(turn)
        return turn

    async def wait(self, client: Hashable, turn: "asyncio.Future[None]") -> None:
        """Return when the request can be served. Raises the exception that was set on `turn`."""
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(client)  # its turn came in the step of the loop in which the task was cancelled
            raise

    def release(self, client: Hashable) -> None:
        queue = self._queues[client]
        while queue.waiting:
            turn = queue.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        queue.served -= 1
        if queue.served == 0:
            del self._queues[client]
