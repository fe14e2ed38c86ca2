"""The event loop of the commands. Its clock stops while the process is stopped.

After `docker pause` or SIGSTOP, asyncio's own loop expires all timers that came due meanwhile before it reads the data
that arrived meanwhile. With this clock the timers expire a little later, so that calls get responses that have already
arrived. This applies to all time-outs on the loop, including those of httpx, the HTTP servers and the MCP SDK.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")

STOP_THRESHOLD_S = 0.5
"""The process was stopped if an iteration of the loop takes this much longer than planned."""

GRACE_S = 2.0
"""The remaining time of a timer after a stop in which it came due, unless less remained before the stop."""


def run(main: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine as `asyncio.run` does, on a `PauseTolerantLoop`."""
    with asyncio.Runner(loop_factory=PauseTolerantLoop) as runner:
        return runner.run(main)


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.stopped_s = 0.0
        self._returned_at_s = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        now_s = time.monotonic()
        # Counted from the last return, to include a stop between two calls.
        passed_s = now_s - self._returned_at_s
        self._returned_at_s = now_s
        # Without a timeout there is no timer.
        if timeout is not None and passed_s > timeout + STOP_THRESHOLD_S:
            self.stopped_s += passed_s - max(timeout - GRACE_S, 0.0)
        return ready


class PauseTolerantLoop(asyncio.SelectorEventLoop):
    """A loop whose `time` does not advance while the process is stopped.

    Use this clock for time-outs only, and `time.monotonic` to measure durations, such as that of a run. After a stop,
    `time` may step back to its value before the iteration in which the stop occurred.
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return super().time() - self._clock.stopped_s
