"""When something was noted."""

import time
from datetime import UTC, datetime, timedelta


def utc_text(ago_s: float = 0.0) -> str:
    """The wall clock, or so many seconds before it: ISO 8601 to the microsecond, in one width, so that texts compare.

    A time before the calendar's begin is the begin.
    """
    now = datetime.fromtimestamp(time.time(), UTC)
    try:
        then = now - timedelta(seconds=ago_s)
    except OverflowError:
        then = datetime.min.replace(tzinfo=UTC)
    return then.isoformat(timespec="microseconds").replace("+00:00", "Z")
