"""Timestamps of events: the coordinator orders events by them, as text (protocol.md, section 1.1)."""

from __future__ import annotations

import time
from collections.abc import Callable


class EventClock:
    """ISO 8601, UTC, to the microsecond, in one width; each later than the one before, whatever the clock does."""

    def __init__(self, time_ns: Callable[[], int] = time.time_ns) -> None:
        self._time_ns = time_ns
        self._last_us = 0

    def now(self) -> str:
        self._last_us = max(self._time_ns() // 1000, self._last_us + 1)
        seconds, microseconds = divmod(self._last_us, 1_000_000)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{microseconds:06d}Z"
