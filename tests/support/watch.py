"""Waits for a condition; the code that changes the state wakes the waiter."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 60.0
"""The time limit for events that should happen at once. It only guards against hangs."""
AT_ONCE_S = 60.0
"""Less than this counts as at once. Time limits that a test must not wait for are several times as long."""


class Watch:
    """Call `changed` after each change; `until` checks its condition then."""

    def __init__(self, describe: Callable[[], str] = lambda: "") -> None:
        self._describe = describe
        self._waiting: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, predicate: Callable[[], bool], what: str) -> None:
        """Return when the predicate holds. Raise AssertionError with the current state if it never does."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not predicate():
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.add(waiter)
                    await waiter
        except TimeoutError:
            raise AssertionError(f"waited {PATIENCE_S:g} s in vain for {what}\n{self._describe()}") from None
