"""The reason that a coordinator gives for an error: the `detail` of its body (protocol.md, sections 1.1 and 1.3)."""

from typing import Any

import msgspec

from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject


class FieldError(msgspec.Struct, frozen=True):
    """One error of a 422: the path of a field, such as `["body", "type"]`, and what is wrong with it."""

    loc: list[Any]
    msg: str

    def __str__(self) -> str:
        path = ".".join(map(str, self.loc))
        return f"{path.removeprefix('body.')}: {self.msg}" if path else self.msg


class ParameterError(msgspec.Struct, frozen=True):
    """One of the `validation_errors`. `path` is text such as `$.a`, or a list of steps."""

    message: str = ""
    path: Any = None

    def __str__(self) -> str:
        steps = self.path if isinstance(self.path, list) else [self.path]
        path = ".".join(str(step) for step in steps if step is not None)
        return f"{path.removeprefix('$').strip('.') or 'parameters'}: {self.message}"


class ErrorDetail(msgspec.Struct, frozen=True):
    """A `detail` that is an object. Which fields it has depends on `error`."""

    error: str = ""
    """A code such as `parameter_validation_failed`, `duplicate_runner` or `run_reassigned`."""
    message: str = ""
    validation_errors: list[ParameterError] | None = None
    parameters_schema: JsonObject | None = None
    runner_id: str | None = None
    """The runner that counts as online (`duplicate_runner`)."""
    agent_name: str | None = None
    existing_runner_id: str | None = None
    """The runner that owns the agent of this name; None: the coordinator itself (`agent_name_collision`)."""
    attempt: int = 1
    """The attempt for which the run waits, or that another runner has (`run_reassigned`)."""


class _Body(msgspec.Struct, frozen=True):
    detail: ErrorDetail | str | list[FieldError]


class _AnyBody(msgspec.Struct, frozen=True):
    detail: msgspec.Raw


def has_detail(body: bytes) -> bool:
    """Return whether a coordinator wrote this body. A proxy in front of it sends pages of its own."""
    try:
        decode_json(body, _AnyBody)
    except DECODE_FAULTS:
        return False
    return True


def detail_of(body: bytes) -> ErrorDetail | str | list[FieldError] | None:
    """Return the decoded `detail`; None if there is none, or if it has an unknown form."""
    try:
        return decode_json(body, _Body).detail
    except DECODE_FAULTS:
        return None


def reason_of(body: bytes) -> str:
    """Return the detail as text, such as `agents.0.name: Field required`; empty without a reason."""
    detail = detail_of(body)
    if detail is None or isinstance(detail, str):
        return detail or ""
    errors = detail.validation_errors or [] if isinstance(detail, ErrorDetail) else detail
    summary = detail.message or detail.error if isinstance(detail, ErrorDetail) else ""
    return ": ".join(filter(None, (summary, "; ".join(map(str, errors)))))
