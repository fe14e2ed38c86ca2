"""A limit of the provider, as an executor reports it (protocol.md, section 2.3)."""

from __future__ import annotations

from datetime import datetime, timezone

from fsm_executor.errors import ExecutorError
from fsm_executor.invocation import JsonObject

SCOPES = ("credential", "session")

Moment = datetime | float
"""A time: a datetime with a time zone, or Unix seconds."""


class LimitReached(ExecutorError):
    """Ends a process whose last turn ended at a limit, if the process gets no further turn."""


def limit_fields(kind: str, resets_at: Moment | None, scope: str, message: str) -> JsonObject:
    """Return the metadata field `limit`. Raises `TypeError` and `ValueError` for values that have no such form."""
    if not isinstance(kind, str) or not isinstance(message, str):
        raise TypeError("a limit's kind and message are of type str")
    if not kind.strip():
        raise ValueError('a limit has a kind, for example "five_hour"')
    if scope not in SCOPES:
        raise ValueError(f"a limit's scope is {' or '.join(SCOPES)}, not {scope!r}")
    moment = None if resets_at is None else _in_utc(resets_at).isoformat().replace("+00:00", "Z")
    return {"kind": kind, "resets_at": moment, "scope": scope, "message": message}


def limit_text(limit: JsonObject) -> str:
    """Return the error of a run that ends at this limit."""
    reset = f"it resets at {limit['resets_at']}" if limit["resets_at"] else "the time of its reset is unknown"
    said = f": {limit['message']}" if limit["message"] else ""
    return f"the limit {limit['kind']} is reached; {reset}{said}"


def _in_utc(moment: Moment) -> datetime:
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError(f"resets_at has no time zone: {moment!r}")
    elif isinstance(moment, bool) or not isinstance(moment, (int, float)):
        raise TypeError(f"resets_at is a datetime or Unix seconds, not {moment!r}")
    try:
        if isinstance(moment, datetime):
            return moment.astimezone(timezone.utc)
        return datetime.fromtimestamp(moment, timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"resets_at is outside the years 1 to 9999: {moment!r} (Unix time is in seconds)") from None
