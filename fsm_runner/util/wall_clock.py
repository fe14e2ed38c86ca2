"""Waits for times of the wall clock, which may be set meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

CHECK_INTERVAL_S = 30.0
"""The time after which a wait looks at the clock again, since no event reports a clock that was set."""

NowS = Callable[[], float]
"""Returns the wall clock as Unix time, in seconds."""


async def sleep_until(due_s: Callable[[], float], now_s: NowS) -> None:
    """Sleep until this time. It may change meanwhile, too."""
    while (left_s := due_s() - now_s()) > 0:  # noqa: ASYNC110 - no event reports a clock that was set
        await asyncio.sleep(min(left_s, CHECK_INTERVAL_S))


async def is_done_by(due_s: float | None, waited: "asyncio.Future[Any]", now_s: NowS) -> bool:
    """Wait for a future, and return True; False if the time passes before. None: there is no such time."""
    while not waited.done() and (due_s is None or due_s > now_s()):
        left_s = CHECK_INTERVAL_S if due_s is None else due_s - now_s()
        await asyncio.wait({waited}, timeout=min(max(left_s, 0.0), CHECK_INTERVAL_S))
    return waited.done()
