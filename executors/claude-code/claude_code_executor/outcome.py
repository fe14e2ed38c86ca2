"""What the end of a turn means: its usage, or why it failed."""

from __future__ import annotations

from datetime import UTC, datetime

from claude_agent_sdk import ResultMessage
from claude_agent_sdk.types import RateLimitInfo

from claude_code_executor.config import Config
from claude_code_executor.surroundings import TOKEN
from fsm_executor import ExecutorError
from fsm_executor.invocation import JsonObject

_USAGE_FIELDS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_written_tokens": "cache_creation_input_tokens",
}
"""By the names that the runner keeps them under, those of the API."""


class TurnFailed(ExecutorError):
    """The program has ended the turn without an answer."""


def usage_of(result: ResultMessage, cost_before_usd: float) -> JsonObject:
    """`cost_before_usd`: what the program has counted before this turn; it adds up."""
    usage = result.usage or {}
    counted = {name: usage[field] for name, field in _USAGE_FIELDS.items() if isinstance(usage.get(field), int)}
    cost = {} if result.total_cost_usd is None else {"cost_usd": round(result.total_cost_usd - cost_before_usd, 6)}
    return {**counted, **cost, "duration_s": result.duration_ms / 1000, "turns": result.num_turns}


def refuse_failure(result: ResultMessage, config: Config, limit: RateLimitInfo | None) -> None:
    """Raises `TurnFailed`. The subtype of an API error is `success`."""
    if result.is_error or result.subtype != "success":
        raise TurnFailed(_failure(result, config) + _reset(limit))


def _failure(result: ResultMessage, config: Config) -> str:
    match result.subtype:
        case "error_max_turns":
            return f"the turn was not done after {config.max_turns} answers of the model (max_turns)"
        case "error_max_budget_usd":
            return f"the budget of {config.max_budget_usd} USD is used up (max_budget_usd)"
        case "error_max_structured_output_retries":
            return "the model has not answered in the form of the agent's output_schema, however often it was asked to"
        case _:
            said = result.result or "; ".join(result.errors or ()) or f"Claude Code ended it with {result.subtype}"
            return said + _http(result.api_error_status)


def _http(status: int | None) -> str:
    match status:
        case None:
            return ""
        case 401 | 403:
            return f" (HTTP {status}: the API does not accept {TOKEN}; `claude setup-token` makes a new one)"
        case _:
            return f" (HTTP {status})"


def _reset(limit: RateLimitInfo | None) -> str:
    if limit is None or limit.status != "rejected" or limit.resets_at is None:
        return ""
    resets_at = datetime.fromtimestamp(limit.resets_at, UTC)
    return f" (the limit resets at {resets_at:%Y-%m-%d %H:%M:%S} UTC)"


def structured_output(result: ResultMessage) -> JsonObject:
    """Raises `TurnFailed` where the model has given none: the program calls that a success."""
    if not isinstance(result.structured_output, dict):
        said = f"; it said: {result.result}" if result.result else ""
        raise TurnFailed(f"the model has not answered with an object in the form of the agent's output_schema{said}")
    return result.structured_output
