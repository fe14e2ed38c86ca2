"""The invocation: the JSON object that an executor gets when it is started (protocol.md, section 2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fsm_executor.errors import ProtocolError
from fsm_executor.json_text import without_lone_surrogates

SCHEMA_VERSIONS = ("2.2",)
"""The supported versions of the protocol. Others are rejected, because their fields may have another meaning."""

MODES = ("start", "resume")

JsonObject = dict[str, Any]

_EXCERPT_CHARS = 60


@dataclass(frozen=True)
class Invocation:
    """Unknown fields are ignored, also in nested objects."""

    schema_version: str
    mode: str
    """`start`, or `resume` for a session that an earlier process of this executor started."""
    session_id: str
    parameters: JsonObject
    project_dir: str | None = None
    """None on resume; the working directory is the project directory."""
    agent_name: str | None = None
    agent_blueprint: JsonObject = field(default_factory=dict)
    """The agent with all placeholders replaced; empty if the run names none."""
    executor_config: JsonObject = field(default_factory=dict)
    """The profile's `config`."""
    metadata: Any = None


@dataclass(frozen=True)
class Field:
    """One field of the invocation: its check and its JSON Schema."""

    name: str
    description: str
    schema: JsonObject
    accepts: Callable[[Any], bool]
    expected: str
    required: bool = False
    fault: str = ""
    """A prefix of the error, with the words that other implementations of the protocol use."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _one_of(choices: tuple[str, ...]) -> str:
    return " or ".join(f'"{choice}"' for choice in choices)


_TEXT: JsonObject = {"type": "string", "minLength": 1}
_OBJECT: JsonObject = {"type": "object"}

FIELDS = (
    Field(
        "schema_version",
        "Version of the protocol.",
        {"enum": list(SCHEMA_VERSIONS)},
        lambda value: value in SCHEMA_VERSIONS,
        _one_of(SCHEMA_VERSIONS),
        required=True,
        fault="Unsupported schema version: ",
    ),
    Field(
        "mode",
        "Whether the session is started or resumed.",
        {"enum": list(MODES)},
        lambda value: value in MODES,
        _one_of(MODES),
        required=True,
    ),
    Field("session_id", "The session's id.", _TEXT, _is_text, "a non-empty string", required=True),
    Field("parameters", "The parameters of the first turn.", _OBJECT, _is_object, "an object", required=True),
    Field("project_dir", "The project directory; only on start.", _TEXT, _is_text, "a non-empty string"),
    Field("agent_name", "The agent.", _TEXT, _is_text, "a non-empty string"),
    Field("agent_blueprint", "The agent's definition.", _OBJECT, _is_object, "an object"),
    Field("executor_config", "The profile's config.", _OBJECT, _is_object, "an object"),
    Field("metadata", "Any value; never rejected.", {}, lambda _: True, "anything"),
)


def invocation_schema() -> JsonObject:
    """Return the JSON Schema that `--schema` prints. An optional field may be null, which counts as absent."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Executor invocation",
        "type": "object",
        "required": [each.name for each in FIELDS if each.required],
        "properties": {each.name: _property(each) for each in FIELDS},
    }


def _property(each: Field) -> JsonObject:
    schema = each.schema if each.required or not each.schema else {"anyOf": [each.schema, {"type": "null"}]}
    return {"description": each.description, **schema}


def decode_invocation(text: bytes) -> Invocation:
    """Raises `ProtocolError` with the name of the invalid field."""
    return invocation_of(decode_json(text))


def invocation_of(value: Any) -> Invocation:
    """Convert a decoded JSON value. Raises `ProtocolError`."""
    if not isinstance(value, dict):
        raise ProtocolError(f"the invocation must be a JSON object, not {excerpt(value)}")
    given: JsonObject = {}
    for each in FIELDS:
        if (found := value.get(each.name)) is None:
            if each.required:
                raise ProtocolError(f"the invocation has no {each.name}")
        elif not each.accepts(found):
            raise ProtocolError(f"{each.fault}{each.name} must be {each.expected}, not {excerpt(found)}")
        else:
            given[each.name] = found
    return Invocation(**given)


def decode_json(text: bytes) -> Any:
    """Decode JSON in UTF-8, with U+FFFD in place of lone surrogates. Raises `ProtocolError`."""
    try:
        return json.loads(without_lone_surrogates(text.decode("utf-8-sig")), parse_constant=_refuse_constant)
    except UnicodeDecodeError as fault:
        raise ProtocolError(f"standard input is not UTF-8: {fault.reason} at byte {fault.start}") from fault
    except RecursionError as fault:
        raise ProtocolError("standard input is bad JSON: nested too deeply") from fault
    except ValueError as fault:
        raise ProtocolError(f"standard input is bad JSON: {fault}") from fault


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def excerpt(value: Any) -> str:
    """Return the value as short JSON on one line, for a message."""
    text = json.dumps(value)
    return text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}…"
