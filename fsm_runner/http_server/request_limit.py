"""Limits how many requests of one owner are served at once. Further ones wait, first come, first served."""

import asyncio
from collections import deque
from collections.abc import Hashable


class Overloaded(Exception):
    """The request has lost its place in the queue."""


class _Queue:
    def __init__(self) -> None:
        self.served = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class Turns:
    """Each owner has `served_at_once` turns. Each turn that has begun must be ended with `end`."""

    def __init__(self, served_at_once: int) -> None:
        self._served_at_once = served_at_once
        self._queues: dict[Hashable, _Queue] = {}

    def begin(self, owner: Hashable) -> "asyncio.Future[None] | None":
        """Return None if the turn has begun. Otherwise return a future to wait for with `come`.

        An exception that is set on the future ends the wait.
        """
        queue = self._queues.setdefault(owner, _Queue())
        if queue.served < self._served_at_once:
            queue.served += 1
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.waiting.append(turn)
        return turn

    async def come(self, owner: Hashable, turn: "asyncio.Future[None]") -> None:
        """Return when the turn has begun. Raises what was set on `turn`."""
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.end(owner)  # the turn began, and the waiting task was cancelled in the same step of the loop
            raise

    def end(self, owner: Hashable) -> None:
        queue = self._queues[owner]
        while queue.waiting:
            turn = queue.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        queue.served -= 1
        if queue.served == 0:
            del self._queues[owner]
