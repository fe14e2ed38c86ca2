"""The types of values that a workflow's guards and templates can name."""

from collections.abc import Collection, Mapping
from enum import StrEnum

import msgspec

from fsm_runner.machine.decoder import similar
from fsm_runner.util.text import quoted

Step = str | int
"""A field of an object, or the index of a list's element, from 0."""


class Kind(StrEnum):
    """What a value is. The texts complete "is …"."""

    BOOLEAN = "true or false"
    INTEGER = "an integer"
    NUMBER = "a number"
    TEXT = "a text"
    NULL = "null"
    LIST = "a list"
    OBJECT = "an object"
    ANY = "of unknown type"


class ValueType(msgspec.Struct, frozen=True):
    kind: Kind
    fields: "Mapping[str, ValueType] | None" = None
    """The fields of an object. None: they are unknown."""
    element: "ValueType | None" = None
    """The elements of a list. None: they are unknown."""
    is_optional: bool = False
    """Whether an object may lack this field."""


NameTypes = Mapping[str, ValueType]
"""The types by name: a value's, `params` and `run`. `check.types.types_of` makes it for a workflow."""

ANY = ValueType(Kind.ANY)


class UnknownPath(Exception):
    """No value can have this path. The text says which part is wrong, and what could be meant."""

    def __init__(self, step: int, message: str) -> None:
        """`step`: the index of the wrong part."""
        super().__init__(message)
        self.step = step


def type_at(names: NameTypes, path: Collection[Step]) -> ValueType:
    """Return the type of the value at a path. It is optional if any field on the path is.

    Raises `UnknownPath`.
    """
    name, *steps = path
    if not isinstance(name, str) or name not in names:
        hint = _elsewhere(str(name), names) or _choice(str(name), names)
        if name == "states" and steps and steps[0] in names:
            hint = f" (did you mean {quoted(path_text(steps))}?)"
        raise UnknownPath(0, f"there is no value {quoted(str(name))}{hint}")
    found, is_optional = names[name], False
    for number, step in enumerate(steps, 1):
        try:
            found = _inside(found, step, number, list(path))
        except UnknownPath as unknown:
            hint = _elsewhere(str(step), names) if number == 1 and "did you mean" not in str(unknown) else ""
            if number == 1 and step == "data" and name not in ("params", "run"):
                hint = f"; {name} has `data` if its state has a `schema`"
            raise UnknownPath(number, f"{unknown}{hint}") from None
        is_optional = is_optional or found.is_optional
    return msgspec.structs.replace(found, is_optional=is_optional)


def _inside(outer: ValueType, step: Step, number: int, path: list[Step]) -> ValueType:
    place = path_text(path[:number])
    if outer.kind is Kind.ANY:
        return ANY
    if outer.kind is Kind.LIST:
        if isinstance(step, int):
            return outer.element or ANY
        raise UnknownPath(number, f"{place} is a list: {quoted(step)} is no index of it, which is a number such as [0]")
    if outer.kind is Kind.OBJECT and isinstance(step, str):
        if outer.fields is None:
            return ANY
        if step in outer.fields:
            return outer.fields[step]
        raise UnknownPath(number, f"{place} has no field {quoted(step)}{_choice(step, outer.fields)}")
    what = "elements" if isinstance(step, int) else f"field {quoted(step)}"
    raise UnknownPath(number, f"{place} is {outer.kind}, which has no {what}")


def optional_part(names: NameTypes, path: Collection[Step]) -> tuple[Step, ...] | None:
    """Return the beginning of a known path, up to the last field that may be missing; None if all are there."""
    steps = list(path)
    found, part = names[str(steps[0])], None
    for number, step in enumerate(steps[1:], 1):
        found = _inside(found, step, number, steps)
        if found.is_optional:
            part = tuple(steps[: number + 1])
    return part


def path_text(path: Collection[Step]) -> str:
    """Return the path as an expression contains it: `plan.data.tasks[0].title`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier():
            text += f".{step}"
        else:
            text += f"[{quoted(step)}]"
    return text.removeprefix(".")


def merged(first: ValueType, second: ValueType) -> ValueType:
    """Return the type of a value that has one of two types."""
    is_optional = first.is_optional or second.is_optional
    if first.kind is not second.kind:
        numbers = {first.kind, second.kind} == {Kind.INTEGER, Kind.NUMBER}
        return ValueType(Kind.NUMBER if numbers else Kind.ANY, is_optional=is_optional)
    fields, element = None, None
    if first.fields is not None and second.fields is not None:
        fields = {
            name: merged(first.fields[name], second.fields[name])
            if name in first.fields and name in second.fields
            else msgspec.structs.replace((first.fields | second.fields)[name], is_optional=True)  # type: ignore[operator]
            for name in [*first.fields, *(name for name in second.fields if name not in first.fields)]
        }
    if first.element is not None and second.element is not None:
        element = merged(first.element, second.element)
    return ValueType(first.kind, fields, element, is_optional)


def _elsewhere(field: str, names: NameTypes) -> str:
    """Return a hint at a value that has a field; empty if there is none, or several have it."""
    having = [name for name, found in names.items() if found.fields is not None and field in found.fields]
    return f" (did you mean {quoted(f'{having[0]}.{field}')}?)" if len(having) == 1 else ""


def _choice(name: str, known: Collection[str]) -> str:
    if hint := similar(name, known):
        return hint
    return f"; there are {', '.join(list(known)[:20])}" if known else ""
