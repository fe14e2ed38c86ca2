"""Times and durations on the command line."""

from datetime import UTC, datetime, timedelta

from fsm_runner.config import parse
from fsm_runner.errors import UsageError

AN_OFFSET = "expected a time with an offset, such as 2026-03-01T15:00:00Z, between the years 1 and 9999"

LONGEST_WITHOUT_UNIT = timedelta(days=366)
"""A longer duration without a unit is probably a time since 1970."""


def duration_of(flag: str, text: str) -> float:
    """Return seconds. Raises `UsageError`."""
    try:
        return parse.duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {text!r}: {error}") from error


def moment_of(flag: str, text: str, direction: int) -> datetime:
    """Return a time in UTC: as given, or a duration from now (`direction` 1) or ago (-1). Raises `UsageError`."""
    try:
        moment = as_time(text)
    except ValueError:
        try:
            duration = timedelta(seconds=parse.duration(text))
            if text.isdecimal() and duration > LONGEST_WITHOUT_UNIT:
                raise UsageError(f"{flag}: {text!r} means {duration.days:,} days in seconds; give a unit, or a time")
            return datetime.now(UTC) + direction * duration
        except ValueError as error:
            raise UsageError(
                f"{flag}: {text!r}: {AN_OFFSET}, or a duration above 0 and up to 36500d, such as 90s, 15m, 2h or 1d"
            ) from error
    if moment is None:
        raise UsageError(f"{flag}: {text!r}: {AN_OFFSET}")
    return moment


def as_time(text: str) -> datetime | None:
    """Return an ISO 8601 time in UTC; None if it has no offset. Raises `ValueError` for other text."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is not between the years 1 and 9999 in UTC") from error
