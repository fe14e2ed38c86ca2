"""What tools return: results truncated to what clients accept, and failures.

A language model reads the failures, so they contain no internals of the runner.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Refused
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.protocol.error_bodies import ErrorDetail, detail_of
from fsm_runner.protocol.wire import JsonObject, SessionResult

LISTED_ERRORS = 20
TRY_LATER = "Try again later."


class ToolFailure(Exception):
    """A tool's failure. The client gets `{"error": text, …fields}`."""

    def __init__(self, text: str, **fields: Any) -> None:
        super().__init__(text)
        self.fields = fields

    @property
    def result(self) -> JsonObject:
        return {"error": str(self), **self.fields}


def failure_of(fault: CoordinatorError, advice: str = TRY_LATER, **fields: Any) -> ToolFailure:
    """Return the failure for a coordinator error, and log the error. `advice` applies if there was no response."""
    logger.debug("mcp: {}", fault)
    if isinstance(fault, NotAuthenticated):
        return ToolFailure("The Agent Coordinator refuses this runner's credentials.", **fields)
    if not isinstance(fault, Refused):
        return ToolFailure(f"The Agent Coordinator cannot be reached or does not work. {advice}", **fields)
    detail = detail_of(fault.body)
    if detail is None:
        return ToolFailure(f"The Agent Coordinator refused this with HTTP status {fault.status}.", **fields)
    if isinstance(detail, ErrorDetail):
        return _failure_of_detail(detail, fields)
    if isinstance(detail, list):
        errors = "; ".join(map(str, detail[:LISTED_ERRORS]))
        return ToolFailure(f"The Agent Coordinator refused the request as invalid: {errors}", **fields)
    return ToolFailure(detail, **fields)


@contextmanager
def as_tool_failures(advice: str = TRY_LATER, **fields: Any) -> Iterator[None]:
    """Raise the `failure_of` a `CoordinatorError` in its place."""
    try:
        yield
    except CoordinatorError as fault:
        raise failure_of(fault, advice, **fields) from fault


def _failure_of_detail(detail: ErrorDetail, fields: dict[str, Any]) -> ToolFailure:
    text = detail.message or detail.error or "The Agent Coordinator refused this without a reason."
    if not detail.validation_errors:
        return ToolFailure(text, **fields)
    listed = [str(error) for error in detail.validation_errors[:LISTED_ERRORS]]
    if len(detail.validation_errors) > LISTED_ERRORS:
        listed.append(f"and {len(detail.validation_errors) - LISTED_ERRORS} more")
    schema = {} if detail.parameters_schema is None else {"parameters_schema": detail.parameters_schema}
    lines = "\n".join(f"- {line}" for line in listed)
    return ToolFailure(f"The parameters do not match the agent's parameters_schema:\n{lines}", **fields, **schema)


def truncate(text: str, limit_chars: int) -> str:
    """Return the text, or its first `limit_chars` characters and a note about the rest."""
    omitted = len(text) - limit_chars
    if omitted <= 0:
        return text
    return f"{text[:limit_chars]}\n\n[truncated: {omitted:,} more characters were omitted]"


def json_chars(value: object) -> int:
    return len(msgspec.json.encode(value).decode())


def result_of(session_id: str, result: SessionResult, limits: Limits) -> JsonObject:
    """Return `{session_id, result_text, result_data}`, with a `note` instead of data that exceeds the limit."""
    found: JsonObject = {"session_id": session_id, "result_text": None, "result_data": result.result_data}
    text = result.result_text
    if text is not None:
        text = text if isinstance(text, str) else msgspec.json.encode(text).decode()
        found["result_text"] = truncate(text, limits.result_text_limit_chars)
    size_chars = json_chars(result.result_data)
    if size_chars > limits.object_limit_chars:
        found["result_data"] = None
        found["note"] = (
            f"result_data was omitted: it has {size_chars:,} characters of JSON, and at most "
            f"{limits.object_limit_chars:,} can be sent"
        )
    return found


def first_fitting(items: list[JsonObject], limit_chars: int) -> list[JsonObject]:
    """Return as many of the first items as fit within the limit together."""
    room_chars = limit_chars
    for count, item in enumerate(items):
        room_chars -= json_chars(item)
        if room_chars < 0:
            return items[:count]
    return items
