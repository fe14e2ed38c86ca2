"""What a tool says when it could not do what it was asked for. A language model reads it, and it holds no internals."""

from typing import Any

from loguru import logger

from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Refused
from fsm_runner.protocol.error_bodies import Detail, detail_of
from fsm_runner.protocol.wire import JsonObject

SHOWN_ERRORS = 20
AWAY = "The Agent Coordinator cannot be reached, or answers with a fault."


class ToolFailure(Exception):
    """Becomes the result `{"error": text, …fields}`."""

    def __init__(self, text: str, **fields: Any) -> None:
        super().__init__(text)
        self.fields = fields

    @property
    def result(self) -> JsonObject:
        return {"error": str(self), **self.fields}


def failure_of(fault: CoordinatorError, hint: str = "Try again later.", **fields: Any) -> ToolFailure:
    """`hint`: what to do where the coordinator has not answered. The log has the whole fault."""
    logger.debug("mcp: {}", fault)
    if isinstance(fault, NotAuthenticated):
        return ToolFailure("The Agent Coordinator refuses this runner's credentials.", **fields)
    if not isinstance(fault, Refused):
        return ToolFailure(f"{AWAY} {hint}", **fields)
    detail = detail_of(fault.body)
    if detail is None:
        return ToolFailure(f"The Agent Coordinator refused this with HTTP status {fault.status}.", **fields)
    if isinstance(detail, Detail):
        return _of_detail(detail, fields)
    if isinstance(detail, list):
        errors = "; ".join(map(str, detail[:SHOWN_ERRORS]))
        return ToolFailure(f"The Agent Coordinator found the request wrong: {errors}", **fields)
    return ToolFailure(detail, **fields)


def _of_detail(detail: Detail, fields: dict[str, Any]) -> ToolFailure:
    text = detail.message or detail.error or "The Agent Coordinator refused this without a reason."
    if not detail.validation_errors:
        return ToolFailure(text, **fields)
    shown = [str(error) for error in detail.validation_errors[:SHOWN_ERRORS]]
    if len(detail.validation_errors) > SHOWN_ERRORS:
        shown.append(f"and {len(detail.validation_errors) - SHOWN_ERRORS} more")
    schema = {} if detail.parameters_schema is None else {"parameters_schema": detail.parameters_schema}
    lines = "\n".join(f"- {line}" for line in shown)
    return ToolFailure(f"The parameters do not fit the agent's parameters_schema:\n{lines}", **fields, **schema)
