"""Timestamps of session events: the coordinator orders events by them, as text (section 1.1)."""

import time
from datetime import UTC, datetime, timedelta

_TICK = timedelta(microseconds=1)


class EventClock:
    """UTC to the microsecond, in one width, each later than the one before, whatever the system's clock does."""

    def __init__(self) -> None:
        self._last = datetime.fromtimestamp(0, UTC)

    def now(self) -> str:
        self._last = max(datetime.fromtimestamp(time.time(), UTC), self._last + _TICK)
        return self._last.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
