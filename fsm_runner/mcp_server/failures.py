"""What a tool says when it could not do what it was asked for. A language model reads it, and it holds no internals."""

from typing import Any

import msgspec
from loguru import logger

from fsm_runner.coordinator.faults import CoordinatorError, NotAuthenticated, Refused
from fsm_runner.coordinator.wire import DECODE_FAULTS, JsonObject
from fsm_runner.json_text import decode_json

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


class _Invalid(msgspec.Struct, frozen=True):
    """One of the `validation_errors` (section 1.3); `path` is a text or a list of steps."""

    message: str = ""
    path: Any = None

    def __str__(self) -> str:
        steps = self.path if isinstance(self.path, list) else [self.path]
        place = ".".join(str(step) for step in steps if step not in (None, ""))
        return f"{place}: {self.message}" if place else self.message


class _Detail(msgspec.Struct, frozen=True):
    """`detail` of an answer that says no, where it is an object."""

    error: str = ""
    message: str = ""
    validation_errors: list[_Invalid] | None = None
    parameters_schema: JsonObject | None = None


class _Body(msgspec.Struct, frozen=True):
    detail: str | _Detail | list[Any]


def failure_of(fault: CoordinatorError, hint: str = "Try again later.", **fields: Any) -> ToolFailure:
    """`hint`: what to do where the coordinator has not answered. The log has the whole fault."""
    logger.debug("mcp: {}", fault)
    if isinstance(fault, NotAuthenticated):
        return ToolFailure("The Agent Coordinator refuses this runner's credentials.", **fields)
    if not isinstance(fault, Refused):
        return ToolFailure(f"{AWAY} {hint}", **fields)
    try:
        detail = decode_json(fault.body, _Body).detail
    except DECODE_FAULTS:
        return ToolFailure(f"The Agent Coordinator refused this with HTTP status {fault.status}.", **fields)
    if isinstance(detail, _Detail):
        return _of_detail(detail, fields)
    if isinstance(detail, list):
        told = msgspec.json.encode(detail).decode()
        return ToolFailure(f"The Agent Coordinator found the request wrong: {told}", **fields)
    return ToolFailure(detail, **fields)


def _of_detail(detail: _Detail, fields: dict[str, Any]) -> ToolFailure:
    text = detail.message or detail.error or "The Agent Coordinator refused this without a reason."
    if not detail.validation_errors:
        return ToolFailure(text, **fields)
    shown = [str(error) for error in detail.validation_errors[:SHOWN_ERRORS]]
    if len(detail.validation_errors) > SHOWN_ERRORS:
        shown.append(f"and {len(detail.validation_errors) - SHOWN_ERRORS} more")
    schema = {} if detail.parameters_schema is None else {"parameters_schema": detail.parameters_schema}
    lines = "\n".join(f"- {line}" for line in shown)
    return ToolFailure(f"The parameters do not fit the agent's parameters_schema:\n{lines}", **fields, **schema)
