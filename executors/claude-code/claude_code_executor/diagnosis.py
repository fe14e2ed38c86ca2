"""Derives status details and parts of failure messages from the program's reports about its API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from claude_agent_sdk import ResultMessage, SystemMessage
from claude_agent_sdk.types import Message, RateLimitEvent, RateLimitInfo

from claude_code_executor.environment import API_KEY, TOKEN, credential_in_use
from claude_code_executor.reset_times import valid_time_s
from claude_code_executor.results import TurnFailed

UNAUTHORIZED, FORBIDDEN = 401, 403
REFUSED_STATUSES = (UNAUTHORIZED, FORBIDDEN)

REFUSAL_LIMIT = 2
"""The number of refused requests that fails a turn. The program would retry about ten times in three minutes. The first
retry can succeed, because the program renews some kinds of credential before it."""


class Diagnosis:
    """Collects the reports of one program."""

    def __init__(self) -> None:
        self._credential = TOKEN
        self._refusals = 0

    def detail_of(self, message: Message) -> str | None:
        """Return the status detail for the message, if any.

        Raises `TurnFailed` when the API refuses the credential for the second time.
        """
        match message:
            case SystemMessage(subtype="init", data=data):
                # The first message of each turn.
                self._credential = credential_in_use(data.get("apiKeySource"))
                self._refusals = 0
            case SystemMessage(subtype="api_retry", data=data):
                self._check_refusal(data.get("error_status"))
                return _retry(data)
            case SystemMessage(subtype="informational", data={"level": "warning", "content": str(content)}):
                return " ".join(content.split())
            case RateLimitEvent(rate_limit_info=limit):
                return _limit_detail(limit)
        return None

    def cause_of(self, result: ResultMessage) -> str:
        """Return what the failure's text lacks: the HTTP status, and what to do about it."""
        status = result.api_error_status
        if status is None:
            return ""
        if status in REFUSED_STATUSES:
            return f" (HTTP {status}: {self._refusal(status)})"
        return f" (HTTP {status})"

    def _check_refusal(self, status: object) -> None:
        if status not in REFUSED_STATUSES:
            return
        self._refusals += 1
        if self._refusals >= REFUSAL_LIMIT:
            raise TurnFailed(f"{self._refusal(status)} (HTTP {status})")

    def _refusal(self, status: object) -> str:
        if status == FORBIDDEN:
            return (
                f"the API, or a proxy in front of it, refuses the request with {self._credential}; check what its "
                "account may use"
            )
        advice = {TOKEN: "; `claude setup-token` makes a new one", API_KEY: "; set it to a valid key"}
        return f"the API does not accept {self._credential}{advice.get(self._credential, '')}"


def _retry(data: dict[str, Any]) -> str:
    status = data.get("error_status")
    what = "the API cannot be reached" if status is None else f"the API answers with HTTP {status}"
    wait_s = data.get("retry_delay_ms", 0) / 1000
    return f"{what}; retry {data.get('attempt')} of {data.get('max_retries')} in {wait_s:.1f} s"


def _limit_detail(limit: RateLimitInfo) -> str | None:
    """Describe a limit that is close or reached. The program reports each change once."""
    if limit.status == "allowed" or limit.rate_limit_type is None:
        return None
    name = f"the usage limit {limit.rate_limit_type}"
    used = "" if limit.utilization is None else f"{limit.utilization:.0%} of "
    state = f"{name} is reached" if limit.status == "rejected" else f"{used}{name} is used"
    resets_at_s = valid_time_s(limit.resets_at)
    return state if resets_at_s is None else f"{state}; it resets at {_time(resets_at_s)}"


def _time(timestamp_s: float) -> str:
    return f"{datetime.fromtimestamp(timestamp_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
