"""What the end of a turn means: why it failed."""

from __future__ import annotations

import re

from claude_agent_sdk import ResultMessage

from claude_code_executor.config import Config
from fsm_executor import ExecutorError
from fsm_executor.invocation import JsonObject

RESET_TIME = "the limit resets at"
OWN_RESET_TIME = re.compile(r" · resets [^\n]*")
"""In the program's text, without the date."""


class TurnFailed(ExecutorError):
    """The program has ended the turn without an answer."""


def refuse_failure(result: ResultMessage, config: Config, cause: str) -> None:
    """Raises `TurnFailed`. The subtype of an API error is `success`. `cause`: what the result's own text lacks."""
    if result.is_error or result.subtype != "success":
        text = _failure(result, config)
        raise TurnFailed((OWN_RESET_TIME.sub("", text) if RESET_TIME in cause else text) + cause)


def _failure(result: ResultMessage, config: Config) -> str:
    match result.subtype:
        case "error_max_turns":
            return f"the turn was not done after {config.max_turns} answers of the model (max_turns)"
        case "error_max_budget_usd":
            return f"the budget of {config.max_budget_usd} USD is used up (max_budget_usd)"
        case "error_max_structured_output_retries":
            return "the model has not answered in the form of the agent's output_schema, however often it was asked to"
        case _:
            return result.result or "; ".join(result.errors or ()) or f"Claude Code ended it with {result.subtype}"


def structured_output(result: ResultMessage) -> JsonObject:
    """Raises `TurnFailed` where the model has given none: the program calls that a success."""
    if not isinstance(result.structured_output, dict):
        said = f"; it said: {result.result}" if result.result else ""
        raise TurnFailed(f"the model has not answered with an object in the form of the agent's output_schema{said}")
    return result.structured_output
