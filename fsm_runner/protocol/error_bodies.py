"""The reason that a coordinator gives with a refusal, read from the body of its answer (protocol.md, section 1.3)."""

from typing import Any

import msgspec

from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject


class FieldError(msgspec.Struct, frozen=True):
    """One error of a 422: the place of a field, such as `["body", "type"]`, and what is wrong with it."""

    loc: list[Any]
    msg: str

    def __str__(self) -> str:
        place = ".".join(map(str, self.loc))
        return f"{place.removeprefix('body.')}: {self.msg}" if place else self.msg


class ParameterError(msgspec.Struct, frozen=True):
    """One of the `validation_errors`. `path` is a text such as `$.a` or a list of steps."""

    message: str = ""
    path: Any = None

    def __str__(self) -> str:
        steps = self.path if isinstance(self.path, list) else [self.path]
        path = ".".join(str(step) for step in steps if step is not None)
        return f"{path.removeprefix('$').strip('.') or 'parameters'}: {self.message}"


class Detail(msgspec.Struct, frozen=True):
    """A `detail` that is an object."""

    error: str = ""
    message: str = ""
    validation_errors: list[ParameterError] | None = None
    parameters_schema: JsonObject | None = None


class _Body(msgspec.Struct, frozen=True):
    detail: Detail | str | list[FieldError]


def detail_of(body: bytes) -> Detail | str | list[FieldError] | None:
    """None where the body is not a coordinator's refusal."""
    try:
        return decode_json(body, _Body).detail
    except DECODE_FAULTS:
        return None


def reason_of(body: bytes) -> str:
    """The refusal in words, such as `agents.0.name: Field required`; empty where the body gives no reason."""
    detail = detail_of(body)
    if detail is None or isinstance(detail, str):
        return detail or ""
    errors = detail.validation_errors or [] if isinstance(detail, Detail) else detail
    summary = detail.message or detail.error if isinstance(detail, Detail) else ""
    return ": ".join(filter(None, (summary, "; ".join(map(str, errors)))))
