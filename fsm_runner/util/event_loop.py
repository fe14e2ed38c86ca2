"""The event loop of the commands. Its clock leaves out the time during which the process was stopped.

After `docker pause` or SIGSTOP, asyncio's own loop lets every timer that came due meanwhile expire at once, before it
reads what has arrived meanwhile. With this clock they expire a little later, so that a call gets an answer that has
already arrived. That holds for every time limit on the loop: those of the product, of httpx, of the HTTP servers and of
the MCP SDK.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")

NOTICED_S = 0.5
"""An iteration of the loop that takes this much longer than planned counts as a stop of the process."""

GRACE_S = 2.0
"""How long a timer that came due during a stop goes on, unless less than that was left of it before the stop."""


def run(main: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine as `asyncio.run` does, on a `PauseTolerantLoop`."""
    with asyncio.Runner(loop_factory=PauseTolerantLoop) as runner:
        return runner.run(main)


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.left_out_s = 0.0
        self._returned_at_s = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        now_s = time.monotonic()
        # Since the last return, so that a stop between two calls counts as well.
        passed_s = now_s - self._returned_at_s
        self._returned_at_s = now_s
        # Without a timeout there is no timer that could come due.
        if timeout is not None and passed_s > timeout + NOTICED_S:
            self.left_out_s += passed_s - max(timeout - GRACE_S, 0.0)
        return ready


class PauseTolerantLoop(asyncio.SelectorEventLoop):
    """A loop whose `time` leaves out stops of the process.

    This clock is for time limits alone. Code that measures time for others, such as the age of a heartbeat or the
    duration of a run, uses `time.monotonic`. After a stop, `time` may
    step back to where it was before the iteration in which the stop came.
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return super().time() - self._clock.left_out_s
