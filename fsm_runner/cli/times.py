"""Times and durations as `fsm-runner history` shows them."""

from fsm_runner.journal.reader import seconds_between
from fsm_runner.journal.records import utc_text


def shown_time(at: str) -> str:
    """Format a time to the millisecond."""
    return f"{at[:23]}Z"


def shown_duration(seconds: float | None, since: str) -> str:
    """Format a duration; None: it has not ended."""
    return f"{shown_s(seconds_between(since, utc_text()))} so far" if seconds is None else shown_s(seconds)


def shown_s(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
