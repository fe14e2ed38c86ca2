"""Waiting for something to become true, woken by whoever changes it."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 60.0
"""How long a test waits for what should come at once. It guards against hangs alone, so it suits a busy machine."""
AT_ONCE_S = 60.0
"""Less than this is "at once". A time limit that a test must not have to wait for is several times as long there."""


class Watch:
    """`changed` is called after each change; `until` looks again then, and never in between."""

    def __init__(self, describe: Callable[[], str] = lambda: "") -> None:
        self._describe = describe
        self._waiting: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, predicate: Callable[[], bool], what: str) -> None:
        """Raises AssertionError, with what there is, when it does not come."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not predicate():
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.add(waiter)
                    await waiter
        except TimeoutError:
            raise AssertionError(f"waited {PATIENCE_S:g} s in vain for {what}\n{self._describe()}") from None
