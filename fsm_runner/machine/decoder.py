"""Decodes a spec field by field, so that one bad field does not hide the next."""

import difflib
import functools
import math
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import msgspec

from fsm_runner.machine.defects import Path
from fsm_runner.machine.spec import Count, Group, Name, Seconds, Spec, State, Tone
from fsm_runner.util.text import quoted, truncated

_VALUE_LIMIT_CHARS = 60


class Problem(NamedTuple):
    path: Path
    message: str


class Decoded(NamedTuple):
    spec: Spec
    """What could be decoded. A field that could not has its default, a transition that could not is left out."""
    problems: tuple[Problem, ...]
    kept: tuple[int, ...]
    """For each transition of `spec`, its index in the file."""


def decode(raw: dict[str, Any]) -> Decoded:
    """Decode what `tomllib` has read. With no problems, `spec` is all of it."""
    problems: list[Problem] = []
    fields = _fields(Spec, raw, (), problems)
    states, transitions = fields.get("states") or {}, fields.get("transitions") or {}
    spec = Spec(
        name=fields.get("name") or "",
        initial=fields.get("initial") or "",
        doc=fields.get("doc") or "",
        events=fields.get("events") or {},
        tags=fields.get("tags") or {},
        states={name: state or State() for name, state in states.items()},
        groups={name: group or Group() for name, group in (fields.get("groups") or {}).items()},
        transitions=tuple(transitions.values()),
    )
    return Decoded(spec, tuple(problems), tuple(transitions))


def similar(name: str, known: Collection[str]) -> str:
    """A hint at the name that was probably meant, to be put behind a message; else nothing."""
    close = closest(name, known)
    return f" (did you mean {quoted(close)}?)" if close is not None else ""


def closest(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def _fields(form: type[msgspec.Struct], raw: dict[str, Any], at: Path, problems: list[Problem]) -> dict[str, Any]:
    """The decoded fields by their Python names; those that could not be decoded are left out."""
    known = {field.encode_name: field for field in msgspec.structs.fields(form)}
    unknown = (key for key in raw if key not in known)
    problems.extend(Problem((*at, key), f"unknown key{similar(key, known) or _listing(known)}") for key in unknown)
    decoded: dict[str, Any] = {}
    hints = _hints(form)
    for key, field in known.items():
        if key in raw:
            count = len(problems)
            value = _value(hints[field.name], raw[key], (*at, key), problems)
            if len(problems) == count or isinstance(value, dict):
                decoded[field.name] = value
        elif field.required:
            problems.append(Problem((*at, key), "is missing"))
    return decoded


@functools.cache
def _hints(form: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(form, include_extras=True)


def _listing(known: Collection[str]) -> str:
    return f"; there are {', '.join(known)}"


def _value(form: Any, raw: Any, at: Path, problems: list[Problem]) -> Any:
    """The decoded value. Lists of tables come back as dicts of what could be decoded, by index."""
    choices = _choices(form)
    if isinstance(raw, dict):
        for choice in choices:
            if typing.get_origin(choice) is dict:
                return _table(typing.get_args(choice), raw, at, problems)
            if _is_struct(choice):
                return _struct(choice, raw, at, problems)
    if isinstance(raw, list):
        for choice in choices:
            if typing.get_origin(choice) is tuple:
                return _list(typing.get_args(choice)[0], raw, at, problems)
    return _scalar(choices, raw, at, problems)


def _choices(form: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(form) in (typing.Union, types.UnionType)
    return typing.get_args(form) if is_union else (form,)


def _is_struct(form: Any) -> bool:
    return isinstance(form, type) and issubclass(form, msgspec.Struct)


def _struct(form: type[msgspec.Struct], raw: dict[str, Any], at: Path, problems: list[Problem]) -> Any:
    count = len(problems)
    fields = _fields(form, raw, at, problems)
    if len(problems) == count or form in (State, Group):
        return form(**fields)
    return None


def _table(forms: tuple[Any, Any], raw: dict[str, Any], at: Path, problems: list[Problem]) -> dict[str, Any]:
    key_form, value_form = forms
    decoded = {}
    for key, value in raw.items():
        _scalar((key_form,), key, (*at, key), problems)
        decoded[key] = _value(value_form, value, (*at, key), problems)
    return decoded


def _list(form: Any, raw: list[Any], at: Path, problems: list[Problem]) -> Any:
    decoded: dict[int, Any] = {}
    for index, element in enumerate(raw):
        count = len(problems)
        value = _value(form, element, (*at, index), problems)
        if len(problems) == count:
            decoded[index] = value
    return decoded if _is_struct(form) else tuple(decoded.values())


def _scalar(choices: tuple[Any, ...], raw: Any, at: Path, problems: list[Problem]) -> Any:
    leaves = tuple(choice for choice in choices if choice in _WORDS or choice is type(None))
    try:
        if leaves and not (isinstance(raw, float) and math.isinf(raw)):
            # A list among the choices must not be given to msgspec here: see `Name`.
            return msgspec.convert(raw, typing.Union[leaves])  # noqa: UP007 -- the members are only known here
    except msgspec.ValidationError:
        pass
    problems.append(Problem(at, f"must be {' or '.join(_described(choices))}, not {_value_text(raw)}"))
    return None


_WORDS: dict[Any, str] = {
    Name: "a text that is not empty",
    Seconds: "a number of seconds above 0",
    Count: "a whole number above 0",
    str: "a text",
    bool: "true or false",
    Tone: '"good", "bad" or "neutral"',
}


def _described(choices: tuple[Any, ...]) -> Iterator[str]:
    for choice in choices:
        if choice in _WORDS:
            yield _WORDS[choice]
        elif typing.get_origin(choice) is tuple:
            yield "a list"
        elif choice is not type(None):
            yield "a table"


def _value_text(raw: Any) -> str:
    if isinstance(raw, dict | list):
        return "a table" if isinstance(raw, dict) else "a list"
    if isinstance(raw, bool):
        return str(raw).lower()
    # Python refuses to write very long whole numbers in the decimal system.
    text = quoted(raw) if isinstance(raw, str) else hex(raw) if isinstance(raw, int) and abs(raw) > 10**18 else str(raw)
    return truncated(text, _VALUE_LIMIT_CHARS)
