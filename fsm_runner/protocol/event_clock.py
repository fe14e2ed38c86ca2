"""Timestamps of session events: the coordinator orders events by them, as text (section 1.1)."""

import time
from datetime import UTC, datetime, timedelta


def utc_now() -> str:
    """Return the time as ISO 8601 text of fixed width, so that texts order like times."""
    return utc_text(time.time())


def utc_text(time_s: float) -> str:
    """Return a Unix time as `utc_now` does."""
    return utc_of(datetime.fromtimestamp(time_s, UTC))


def utc_of(moment: datetime) -> str:
    """Return a time with an offset as `utc_now` does. Raises OverflowError."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def utc_from(text: str) -> str:
    """Return a time in ISO 8601 with an offset as `utc_now` writes it. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("it has no offset such as `Z` or `+01:00`")
        return utc_of(moment)
    except OverflowError:
        raise ValueError("it is no time in UTC") from None


def utc_at(time_s: float) -> str:
    """Return a Unix time as text to the second, such as `2026-03-01T15:00:00Z`."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class EventClock:
    """UTC to the microsecond, in one width, each later than the one before, whatever the system's clock does."""

    def __init__(self) -> None:
        self._last = datetime.fromtimestamp(0, UTC)

    def now(self) -> str:
        self._last = max(datetime.fromtimestamp(time.time(), UTC), self._last + timedelta(microseconds=1))
        return utc_of(self._last)
