"""What the variables of a guard are, given the values of a workflow."""

from collections.abc import Mapping
from typing import Any

from fsm_runner.workflow.expression_reader import Use
from fsm_runner.workflow.value_types import Kind, Step, path_text

TEXT_LIMIT_CHARS = 1 << 16
"""No value of an activity has a longer text (docs/workflows.md, "Values"). A parameter may have one."""
ELEMENTS_LIMIT = 1_000
SHORT_CHARS = 2_000
"""A longer text differs from all literals, because no expression is longer."""
_INTEGERS = range(-(1 << 63), 1 << 63)


class Missing(Exception):
    """A variable has no value. The text says why. This is only an error if the variable decides."""


class TextClasses:
    """Short substitutes for the long texts of one evaluation: equal ones for equal texts, and only for these."""

    def __init__(self) -> None:
        self._long: list[str] = []

    def substitute(self, text: str) -> str:
        """Return a text that CEL can take: it ends texts at NUL, and accepts no lone surrogate."""
        if len(text) > SHORT_CHARS:
            number = next((number for number, other in enumerate(self._long) if other == text), len(self._long))
            if number == len(self._long):
                self._long.append(text)
            text = f"{text[:SHORT_CHARS]}#{number}"
        if "\0" in text:
            text = text.replace("\0", "\ufffd")
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text


def variable_value(use: Use, values: Mapping[str, object], texts: TextClasses, *, is_exact: bool) -> object:
    """Return the value of the variable. Raises `Missing`.

    `is_exact`: long texts of unknown type are refused, because the expression could tell a substitute.
    """
    if use.operation == "has":
        try:
            _value_at(use.path, values)
        except _NoField:
            return False
        return True
    value = _value_at(use.path, values)
    if isinstance(value, str) and len(value) > TEXT_LIMIT_CHARS and use.operation != "size":
        raise Missing(f"{path_text(use.path)} has {len(value):,} characters, more than {TEXT_LIMIT_CHARS:,}")
    if use.operation == "value":
        return _scalar(use, value, texts, is_exact)
    if use.operation == "size":
        if isinstance(value, str | list | tuple | dict):
            return len(value)
        raise _wrong(use, "a list, an object or a text")
    return _found(use, value)


class _NoField(Missing):
    """An object has no such field, or a list no such element."""


def _value_at(path: tuple[Step, ...], values: Mapping[str, object]) -> object:
    name, *steps = path
    if name not in values:
        raise Missing(f"{name} has no value yet")
    value = values[str(name)]
    for number, step in enumerate(steps, 1):
        if isinstance(value, Mapping) and step in value:  # noqa: SIM114 - mypy distinguishes the two
            value = value[step]
        elif isinstance(step, int) and isinstance(value, list | tuple) and 0 <= step < len(value):
            value = value[step]
        else:
            kind = f"has {len(value)} elements" if isinstance(value, list | tuple) else "has no such field"
            raise _NoField(f"{path_text(path[: number + 1])} does not exist: {path_text(path[:number])} {kind}")
    return value


def _scalar(use: Use, value: object, texts: TextClasses, is_exact: bool) -> object:
    kind = use.kind
    if isinstance(value, str) and kind in (Kind.TEXT, Kind.ANY):
        if is_exact and kind is Kind.ANY and len(value) > SHORT_CHARS:
            raise Missing(
                f"{path_text(use.path)} is a text of {len(value):,} characters: declare its type in the schema"
            )
        return texts.substitute(value)
    if isinstance(value, bool) and kind in (Kind.BOOLEAN, Kind.ANY):
        return value
    if value is None and kind in (Kind.NULL, Kind.ANY):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind is Kind.NUMBER and (isinstance(value, float) or value in _INTEGERS):
            return float(value)
        if kind is Kind.INTEGER and isinstance(value, float) and value.is_integer() and int(value) in _INTEGERS:
            return int(value)
        if kind in (Kind.INTEGER, Kind.ANY) and isinstance(value, int) and value in _INTEGERS:
            return value
        if kind is Kind.ANY and isinstance(value, float):
            return value
        if isinstance(value, int) and value not in _INTEGERS:
            raise Missing(f"{path_text(use.path)} is too large: a guard computes with 64 bits")
    raise _wrong(use, "a number, a text, true, false or null" if kind is Kind.ANY else str(kind))


def _found(use: Use, value: object) -> bool:
    if use.operation == "in":
        if isinstance(value, Mapping):
            return isinstance(use.literal, str) and use.literal in value
        if not isinstance(value, list | tuple):
            raise _wrong(use, "a list")
        if len(value) > ELEMENTS_LIMIT:
            raise Missing(f"{path_text(use.path)} has {len(value):,} elements, more than {ELEMENTS_LIMIT:,}")
        return _contains(value, use.literal)
    if not isinstance(value, str):
        raise _wrong(use, "a text")
    if use.operation == "contains":
        return use.literal in value
    return value.startswith(use.literal) if use.operation == "startsWith" else value.endswith(use.literal)


def _contains(elements: "list[Any] | tuple[Any, ...]", literal: Any) -> bool:
    if isinstance(literal, str):
        return literal in elements
    # For Python, 1 equals True.
    return any(element == literal and isinstance(element, bool) is isinstance(literal, bool) for element in elements)


def _wrong(use: Use, wanted: str) -> Missing:
    return Missing(f"{path_text(use.path)} must be {wanted}, and is not")
