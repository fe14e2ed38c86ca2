"""Decodes a spec. If it does not match the format, every defect is found, and the rest is decoded."""

import difflib
import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import msgspec

from fsm_runner.machine.defects import Path
from fsm_runner.machine.spec import Group, Spec, State, Transition
from fsm_runner.util.text import quoted, truncated

if TYPE_CHECKING:
    from jsonschema import ValidationError

_Value = TypeVar("_Value", str, dict[str, Any], list[Any])
_Part = TypeVar("_Part", State, Group)

_OF_TABLES = ("additionalProperties", "required")
"""The rules of JSON Schema about the keys of a table."""


class Problem(NamedTuple):
    path: Path
    message: str


class Decoded(NamedTuple):
    spec: Spec
    """The parts that could be decoded. Other fields have their defaults, other transitions are left out."""
    problems: tuple[Problem, ...]
    indices: tuple[int, ...]
    """The index in the file of each transition of `spec`."""


def decode(raw: dict[str, Any]) -> Decoded:
    """Decode the result of `tomllib`. Without problems, `spec` is complete.

    Raises `ValueError` if a message would have to quote a number with too many digits for Python.
    """
    try:
        spec = msgspec.convert(raw, Spec)
    except (msgspec.ValidationError, OverflowError):
        from fsm_runner.machine.schema import schema

        return _partly_decoded(raw, tuple(problems(raw, schema())))
    return Decoded(spec, (), tuple(range(len(spec.transitions))))


def similar(name: str, known: Collection[str]) -> str:
    """Return a hint at the name that was probably meant, to append to a message; empty if none is similar."""
    close = closest(name, known)
    return f" (did you mean {quoted(close)}?)" if close is not None else ""


def closest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that was probably meant, or None."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def problems(raw: dict[str, Any], schema: dict[str, Any]) -> Iterator[Problem]:
    """Yield the deviations of the result of `tomllib` from a schema without nulls.

    Raises `ValueError` as `decode` does.
    """
    # Imported only here: a sound file does not need it.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # For JSON Schema, 1.0 is a whole number, and `nan` is a number.
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) in (int, float) and value == value,
        }
    )
    validator = extend(Draft202012Validator, type_checker=types)  # type: ignore[no-untyped-call]  # it has no type hints
    for error in validator(schema).iter_errors(raw):
        yield from _described(error)


def _described(error: "ValidationError") -> Iterator[Problem]:
    at, value, form = tuple(error.absolute_path), error.instance, cast(dict[str, Any], error.schema)
    match error.validator:
        case "additionalProperties":
            known = form["properties"]
            for key in set(cast(dict[str, Any], value)).difference(known):
                hint = similar(key, known) or f"; there are {', '.join(known)}"
                yield Problem((*at, key), f"unknown key{hint}")
        case "required":
            yield from (Problem((*at, key), "is missing") for key in form["required"] if f"'{key}'" in error.message)
        case "anyOf" if inner := [it for it in error.context or () if it.path or it.validator in _OF_TABLES]:
            for cause in inner:
                yield from _described(cause)
        case _:
            if "propertyNames" in error.absolute_schema_path:
                at = (*at, str(value))
            yield Problem(at, f"must be {_expected(form)}, not {_shown(value)}")


def _expected(form: dict[str, Any]) -> str:
    if choices := form.get("anyOf"):
        return " or ".join(map(_expected, choices))
    if values := form.get("enum"):
        return f"{', '.join(map(quoted, values[:-1]))} or {quoted(values[-1])}"
    return {
        "string": _expected_text(form),
        "number": f"a number{' of seconds' if 'maximum' in form else ''} above 0",
        "integer": f"a whole number{' above 0' if form.get('minimum') else ', not negative'}",
        "boolean": "true or false",
        "array": f"a list{' that is not empty' if 'minItems' in form else ''}",
    }.get(form.get("type", "string" if form.keys() & {"minLength", "pattern"} else ""), "a table") + _upper_bound(form)


def _expected_text(form: dict[str, Any]) -> str:
    if (pattern := form.get("pattern")) is None:
        return "a text that is not empty" if "minLength" in form else "a text"
    characters = "letters, digits, `_` and `-`" if "-]" in pattern else "letters, digits and `_`"
    return f"a name of {characters} that begins with a letter{', a digit' if '^[A-Za-z0-9' in pattern else ''} or `_`"


def _upper_bound(form: dict[str, Any]) -> str:
    bound = form.get("maximum", math.inf)
    characters = f", of at most {form['maxLength']:,} characters" if "maxLength" in form else ""
    return characters if bound > 1e300 else f", at most {bound:,}"


def _shown(raw: Any) -> str:
    if isinstance(raw, dict | list):
        return "a table" if isinstance(raw, dict) else "a list" if raw else "an empty list"
    if isinstance(raw, bool):
        return str(raw).lower()
    return truncated(quoted(raw) if isinstance(raw, str) else str(raw), limit_chars=60)


def _partly_decoded(raw: dict[str, Any], problems: tuple[Problem, ...]) -> Decoded:
    damaged = {problem.path[:length] for problem in problems for length in range(len(problem.path) + 1)}

    def value(key: str, form: type[_Value]) -> _Value:
        return it if isinstance(it := raw.get(key), form) else form()

    def texts(key: str) -> dict[str, str]:
        return {name: doc if isinstance(doc, str) else "" for name, doc in value(key, dict).items() if name}

    def parts(key: str, form: type[_Part]) -> dict[str, _Part]:
        tables = {name: table if isinstance(table, dict) else {} for name, table in value(key, dict).items() if name}
        return {
            name: msgspec.convert({k: v for k, v in table.items() if (key, name, k) not in damaged}, form)
            for name, table in tables.items()
        }

    found = value("transitions", list)
    indices = tuple(index for index in range(len(found)) if ("transitions", index) not in damaged)
    spec = Spec(
        name=value("name", str),
        initial=value("initial", str),
        doc=value("doc", str),
        events=texts("events"),
        tags=texts("tags"),
        states=parts("states", State),
        groups=parts("groups", Group),
        transitions=tuple(msgspec.convert(found[index], Transition) for index in indices),
    )
    return Decoded(spec, problems, indices)
