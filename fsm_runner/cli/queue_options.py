"""The options of `fsm-runner submit` that concern the coordinator's queue (docs/queue.md)."""

import re
from datetime import datetime, timedelta
from typing import Any

import msgspec

from fsm_runner.cli.moments import as_time, duration_of, moment_of
from fsm_runner.cli.parameters import check_utf8
from fsm_runner.errors import UsageError
from fsm_runner.protocol.event_clock import utc_of
from fsm_runner.protocol.wire import KEY_LIMIT, KEY_PATTERN, PRIORITY_LIMIT, RunCreated, RunRequest

FLAGS = {
    "priority": "--priority",
    "not_before": "--not-before",
    "queue_ttl_seconds": "--queue-ttl",
    "idempotency_key": "--idempotency-key",
}
"""The flags by the fields of a request."""

CLOSE = timedelta(seconds=1)
"""A coordinator may round a time, but not more than this."""


class QueueFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The text of each option; None: not given."""

    priority: str | None = None
    not_before: str | None = None
    queue_ttl: str | None = None
    idempotency_key: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the request. Raises `UsageError` that names the flag."""
        return {
            "priority": None if self.priority is None else _priority(self.priority),
            "not_before": None if self.not_before is None else self._not_before(self.not_before),
            "queue_ttl_seconds": None if self.queue_ttl is None else duration_of("--queue-ttl", self.queue_ttl),
            "idempotency_key": None if self.idempotency_key is None else _key(self.idempotency_key),
        }

    def _not_before(self, text: str) -> str:
        moment = moment_of("--not-before", text, 1)
        if self.idempotency_key is not None and not _is_time(text):
            raise UsageError(
                f"--not-before: {text!r} with --idempotency-key: the same command would later name another time, and "
                f"so be another request; give the time: {utc_of(moment)}"
            )
        return utc_of(moment)


def unconfirmed(request: RunRequest, created: RunCreated) -> list[str]:
    """Return the flags of the options that the response does not repeat as they were sent."""
    pairs = {flag: (getattr(request, field), getattr(created, field)) for field, flag in FLAGS.items()}
    return [flag for flag, (sent, received) in pairs.items() if sent is not None and not _is_same(sent, received)]


def _is_same(sent: object, received: object) -> bool:
    if sent == received:
        return True
    try:
        moments = [as_time(text) for text in (sent, received) if isinstance(text, str)]
    except ValueError:
        return False
    match moments:
        case [datetime() as first, datetime() as second]:
            return abs(first - second) < CLOSE
    return False


def _is_time(text: str) -> bool:
    try:
        return as_time(text) is not None
    except ValueError:
        return False


def _priority(text: str) -> int:
    if not re.fullmatch("[+-]?[0-9]{1,2}", text) or abs(int(text)) > PRIORITY_LIMIT:
        raise UsageError(f"--priority: {text!r}: expected a whole number from -{PRIORITY_LIMIT} to {PRIORITY_LIMIT}")
    return int(text)


def _key(text: str) -> str:
    check_utf8(f"--idempotency-key: {text!r}", text)
    # The value may be an unset variable of the shell.
    if not text.strip():
        raise UsageError("--idempotency-key: the value is empty")
    if not re.search(KEY_PATTERN, text):
        raise UsageError(f"--idempotency-key: {text!r} has control characters: remove them")
    if len(text) > KEY_LIMIT:
        raise UsageError(f"--idempotency-key: has {len(text):,} characters; at most {KEY_LIMIT} are permitted")
    return text
