"""Finds the time at which a limit resets in a text of the program."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UNIX_TIME = re.compile(r"limit reached\|(\d{1,15})\b", re.IGNORECASE | re.ASCII)
_CLOCK_TIME = re.compile(
    r"\bresets (?:at )?"
    rf"(?:(?P<month>{'|'.join(_MONTHS)})[a-z]* (?P<day>\d{{1,2}})(?:, (?P<year>\d{{4}}))?(?:,| at) )?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?P<half>am|pm)\b(?: \((?P<zone>[^()]{1,100})\))?",
    re.IGNORECASE | re.ASCII,
)

PRECISION = timedelta(minutes=1)
"""The program leaves the seconds out."""

TOLERANCE = timedelta(minutes=10)
"""A time of day that passed within this time is that of today, and an earlier one is that of tomorrow."""


def reset_in_text(text: str, now_s: float) -> float | None:
    """Return the time of the reset in Unix seconds, or None. It can have passed.

    The known forms are `…limit reached|1795980405`, `…resets 7:26pm (Europe/Berlin)`, `…resets 7pm`,
    `…resets Dec 2, 6:26pm (UTC)`, `…resets Dec 2 at 6pm` and `…resets Nov 29, 2027, 6:26pm (UTC)`. A time without a
    zone is in that of the system.
    """
    if (unix := _UNIX_TIME.search(text)) is not None:
        return valid_time_s(int(unix[1]))
    found = _CLOCK_TIME.search(text)
    zone = None if found is None else _zone(found["zone"])
    if found is None or zone is None:
        return None
    try:
        moment = _moment(found, datetime.fromtimestamp(now_s, zone))
        # The latest time that the text can mean: a request before the reset would only meet the limit again.
        return (moment.astimezone(UTC) + PRECISION).timestamp()
    except (ValueError, OverflowError):
        return None  # such as February 30, or 17pm


def valid_time_s(value: object) -> float | None:
    """Return the value if it is a time in Unix seconds, within the years 1 to 9999."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return float(value)


def _moment(found: re.Match[str], now: datetime) -> datetime:
    """Raises `ValueError` if there is no such time."""
    hour = int(found["hour"])
    if not 1 <= hour <= 12:
        raise ValueError(f"there is no hour {hour}")
    hour = hour % 12 + (12 if found["half"].lower() == "pm" else 0)
    time = now.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
    if found["month"] is None:
        return time if time >= now - TOLERANCE else time + timedelta(days=1)
    month, day = _MONTHS.index(found["month"].lower()) + 1, int(found["day"])
    if found["year"] is not None:
        return time.replace(year=int(found["year"]), month=month, day=day)
    # The program names the year only if it is not the current one, so a date that has passed is of the next year.
    this_year = time.replace(month=month, day=day)
    return this_year if this_year >= now - timedelta(days=1) else this_year.replace(year=now.year + 1)


def _zone(name: str | None) -> tzinfo | None:
    """Return the zone; that of the system if there is no name, and None if the name is unknown."""
    if name is None:
        return datetime.now().astimezone().tzinfo
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None
