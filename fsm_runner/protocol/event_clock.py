"""Timestamps of session events: the coordinator orders events by them, as text (section 1.1)."""

import time
from datetime import UTC, datetime, timedelta

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def utc_now() -> str:
    """Return the time as ISO 8601 text of fixed width, so that texts order like times."""
    return datetime.now(UTC).strftime(_FORMAT)


class EventClock:
    """UTC to the microsecond, in one width, each later than the one before, whatever the system's clock does."""

    def __init__(self) -> None:
        self._last = datetime.fromtimestamp(0, UTC)

    def now(self) -> str:
        self._last = max(datetime.fromtimestamp(time.time(), UTC), self._last + timedelta(microseconds=1))
        return self._last.strftime(_FORMAT)
