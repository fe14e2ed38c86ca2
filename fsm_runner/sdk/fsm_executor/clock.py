"""Timestamps of session events. The coordinator sorts events by them as text (protocol.md, section 1.1)."""

from __future__ import annotations

import time
from collections.abc import Callable


class EventClock:
    """Gives UTC timestamps in ISO 8601 with microseconds and one width. They increase even if the clock jumps."""

    def __init__(self, time_ns: Callable[[], int] = time.time_ns) -> None:
        self._time_ns = time_ns
        self._last_us = 0

    def now(self) -> str:
        self._last_us = max(self._time_ns() // 1000, self._last_us + 1)
        seconds, microseconds = divmod(self._last_us, 1_000_000)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{microseconds:06d}Z"
