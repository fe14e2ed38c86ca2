"""Derives the provider's limit at which a turn has ended from what the program reports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from claude_agent_sdk import ResultMessage, SystemMessage
from claude_agent_sdk.types import Message, RateLimitEvent, RateLimitInfo

from claude_code_executor.reset_times import reset_in_text, valid_time_s

TOO_MANY_REQUESTS = 429

UNNAMED = "rate_limit"
"""The kind of a limit that the program does not name, such as the requests per minute of an API key."""
USAGE_LIMIT = "usage_limit"
"""The kind of a limit that only the result's text names, in words that are not in `_KINDS`."""

_KINDS = {
    "5-hour limit": "five_hour",
    "session limit": "five_hour",
    "weekly limit": "seven_day",
    "opus limit": "seven_day_opus",
    "sonnet limit": "seven_day_sonnet",
    "usage credit limit": "overage",
}
"""The program's kinds by the words that it uses in results."""

_LIMIT_TEXT = re.compile(
    r"You['\u2019]ve (?:hit|reached) your (?P<hit>[^\u00b7\u2219|\n]{0,60}?limit)\b"
    r"|(?:Claude AI )?(?P<reached>(?:usage|session|weekly|\d+-hour|opus|sonnet) limit) reached\b",
    re.IGNORECASE | re.ASCII,
)
"""The beginning of a result about a usage limit. Other limits of the program, such as that of the context, are no
limits of the provider."""

_OWN_RESET = re.compile(r" [\u00b7\u2219] resets [^\n]*|\|\d+\b", re.ASCII)
"""The text's time of the reset, which lacks the date."""

LONG_RETRY_S = 30.0
"""The program repeats a request after the time that the API names, if that is 60 s at most. If it is longer than this,
the executor ends the turn instead, and the runner waits: its other runs then do not meet the same limit."""

_FIRST_BACKOFF_S, _MAX_BACKOFF_S, _JITTER = 0.5, 32.0, 1.25
"""The times after which the program repeats a request if the API names none. Each is twice the one before."""


@dataclass(frozen=True)
class Limit:
    kind: str
    resets_at_s: float | None
    """Unix time. None if it is unknown."""
    message: str


class Limits:
    """Collects the reports of one program. `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._reported: RateLimitInfo | None = None
        """The program reports each change once, so this can be of an earlier turn."""
        self._long_retry: Limit | None = None

    def record(self, message: Message) -> bool:
        """Return whether the message announces a retry that is so far away that the turn should end instead."""
        match message:
            case RateLimitEvent(rate_limit_info=info):
                self._reported = info
            case SystemMessage(subtype="init"):
                # The first message of each turn.
                self._long_retry = None
            case SystemMessage(subtype="api_retry", data={"error_status": status} as data):
                delay_s = _named_delay_s(data) if status == TOO_MANY_REQUESTS else None
                if delay_s is not None and delay_s > LONG_RETRY_S:
                    text = f"the API answers with HTTP {TOO_MANY_REQUESTS}, and names a time to wait"
                    self._long_retry = Limit(UNNAMED, valid_time_s(self._clock() + delay_s), text)
                    return True
        return False

    def limit_of(self, result: ResultMessage) -> Limit | None:
        """Return the limit because of which the turn failed, or None."""
        if not result.is_error and result.subtype == "success":
            return None
        if self._long_retry is not None and result.subtype == "error_during_execution":
            return self._long_retry
        text = result.result or ""
        named = _LIMIT_TEXT.match(text)
        if result.api_error_status != TOO_MANY_REQUESTS and named is None:
            return None
        info = self._reported if self._reported is not None and self._reported.status == "rejected" else None
        kind = None if info is None else info.rate_limit_type
        resets_at_s = None if info is None else valid_time_s(info.resets_at)
        if resets_at_s is None:
            resets_at_s = reset_in_text(text, self._clock())
        shown = text if resets_at_s is None else _OWN_RESET.sub("", text)
        return Limit(kind or _kind(named), resets_at_s, " ".join(shown.split()))


def _kind(named: re.Match[str] | None) -> str:
    if named is None:
        return UNNAMED
    return _KINDS.get((named["hit"] or named["reached"]).lower(), USAGE_LIMIT)


def _named_delay_s(data: dict[str, Any]) -> float | None:
    """Return the time until the retry, or None if the program has chosen it itself.

    The program does not report the API's header `retry-after`. It adds a random part to it.
    """
    attempt, delay_ms = data.get("attempt"), data.get("retry_delay_ms")
    if not isinstance(attempt, int) or not isinstance(delay_ms, (int, float)):
        return None
    backoff_s = min(_FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 16), _MAX_BACKOFF_S) * _JITTER
    return delay_ms / 1000 if delay_ms / 1000 > backoff_s else None
