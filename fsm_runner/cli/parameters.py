"""The parameters of a run on the command line.

key=text      a value of the type that the workflow's `params`, or the agent's `parameters_schema`, declare, else a
              string
key=@file     the same, with the text of a file
key:=json     a JSON value
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject
from fsm_runner.workflow.definition import JSON_TYPES, Parameter, Workflow

FILE_LIMIT_BYTES = 64 * 1024 * 1024
"""The largest file of a parameter: the limit of a coordinator for a whole run."""


class _KeySchema(msgspec.Struct, frozen=True):
    """The keywords of a property's JSON Schema that determine how its text is parsed."""

    type: str | tuple[str, ...] = ()
    items: Any = None


def parse_parameters(words: Iterable[str], schema: JsonObject | None) -> JsonObject:
    """Parse the words. Raises `UsageError` naming an invalid one."""
    parameters: JsonObject = {}
    for word in words:
        key, value = _parsed(word, schema or {})
        if key in parameters:
            raise UsageError(f"{word!r}: {key!r} is given twice")
        parameters[key] = value
    return parameters


def with_types_of(workflow: Workflow, schema: JsonObject | None) -> JsonObject:
    """Return the schema of an agent's parameters with the types that a workflow declares for its parameters."""
    of_agent = (schema or {}).get("properties")
    properties: JsonObject = dict(of_agent) if isinstance(of_agent, dict) else {}
    for name, declared in workflow.params.items():
        wanted = declared.type if isinstance(declared, Parameter) else declared
        known = properties.get(name)
        properties[name] = {**(known if isinstance(known, dict) else {}), "type": JSON_TYPES[wanted]}
    return {**(schema or {}), "properties": properties}


def _parsed(word: str, schema: JsonObject) -> tuple[str, object]:
    name, equals, text = word.partition("=")
    as_json = name.endswith(":")
    # A file name may have any bytes.
    check_utf8(repr(word), name if text.startswith("@") and not as_json else word)
    key = name.removesuffix(":")
    if not equals or not key:
        raise UsageError(f"{word!r}: expected key=value, key:=json or key=@file")
    if as_json:
        return key, _json(word, text)
    if text.startswith("@"):
        text = _file_text(word, Path(text[1:]))
    properties = schema.get("properties")
    return key, _typed(word, text, _key_schema(properties.get(key) if isinstance(properties, dict) else None))


def _key_schema(schema: Any) -> _KeySchema:
    try:
        return msgspec.convert(schema or {}, _KeySchema)
    except msgspec.ValidationError:
        return _KeySchema()


def _typed(word: str, text: str, schema: _KeySchema) -> object:
    types = (schema.type,) if isinstance(schema.type, str) else schema.type
    readers = [_READERS[name] for name in types if name in _READERS]
    for read in readers:
        try:
            return read(text, schema)
        except (*DECODE_FAULTS, UsageError):
            continue
    if readers and "string" not in types:
        raise UsageError(f"{word!r}: {text!r} is not of the declared type: {' or '.join(types)}")
    return text


def _json(word: str, text: str) -> object:
    try:
        return decode_json(text)
    except DECODE_FAULTS as error:
        raise UsageError(f"{word!r}: not JSON: {error}") from error


def check_utf8(subject: str, text: str) -> None:
    """Raises `UsageError` for text from bytes that are not UTF-8: Python makes them lone surrogates, JSON has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{subject}: not UTF-8 text") from error


def _file_text(word: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
        if len(content) > FILE_LIMIT_BYTES:
            raise UsageError(f"{word!r}: {path} is larger than {FILE_LIMIT_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{word!r}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{word!r}: {path} is not UTF-8 text: {error}") from error
    except ValueError as error:
        raise UsageError(f"{word!r}: {str(path)!r} cannot be the path of a file: {error}") from error


def _read_list(text: str, schema: _KeySchema) -> object:
    """Parse a JSON array, or values separated by commas."""
    if text.lstrip().startswith("["):
        return decode_json(text, list[Any])
    return [_typed(text, part, _key_schema(schema.items)) for part in text.split(",")] if text else []


_READERS: dict[str, Callable[[str, _KeySchema], object]] = {
    "integer": lambda text, _: decode_json(text, int),
    "number": lambda text, _: decode_json(text, int | float),
    "boolean": lambda text, _: decode_json(text, bool),
    "null": lambda text, _: decode_json(text, None),
    "object": lambda text, _: decode_json(text, dict[str, Any]),
    "array": _read_list,
}
