"""The JSON object that an executor is started with (protocol.md, section 2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fsm_executor.errors import ProtocolError
from fsm_executor.json_text import without_lone_surrogates

SCHEMA_VERSIONS = ("2.2",)
"""The versions whose contract is known here. Others are refused: what they mean by a field would be a guess."""

MODES = ("start", "resume")

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Invocation:
    """Unknown fields are ignored, here and in what the objects hold."""

    schema_version: str
    mode: str
    """`start`, or `resume`: a session that an earlier process of this executor has begun."""
    session_id: str
    parameters: JsonObject
    project_dir: str | None = None
    """None on resume: the working directory is the project's."""
    agent_name: str | None = None
    agent_blueprint: JsonObject = field(default_factory=dict)
    """The agent, with all placeholders replaced; empty where the run names none."""
    executor_config: JsonObject = field(default_factory=dict)
    """The profile's `config`."""
    metadata: Any = None


@dataclass(frozen=True)
class Field:
    """One field of the object: how it is checked here, and how `--schema` tells of it."""

    name: str
    description: str
    schema: JsonObject
    accepts: Callable[[Any], bool]
    expected: str
    required: bool = False
    fault: str = ""
    """A prefix of the error: the words that other implementations of the protocol use for it."""


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
        "Whether the session begins or goes on.",
        {"enum": list(MODES)},
        lambda value: value in MODES,
        _one_of(MODES),
        required=True,
    ),
    Field("session_id", "The session's id.", _TEXT, _is_text, "a string that is not empty", required=True),
    Field("parameters", "What the first turn is about.", _OBJECT, _is_object, "an object", required=True),
    Field("project_dir", "The project's folder; on start only.", _TEXT, _is_text, "a string that is not empty"),
    Field("agent_name", "The agent.", _TEXT, _is_text, "a string that is not empty"),
    Field("agent_blueprint", "The agent as the coordinator has it.", _OBJECT, _is_object, "an object"),
    Field("executor_config", "The profile's config.", _OBJECT, _is_object, "an object"),
    Field("metadata", "Anything; never refused.", {}, lambda _: True, "anything"),
)


def invocation_schema() -> JsonObject:
    """What `--schema` prints. An optional field may be null, which counts as absent."""
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
    """Raises `ProtocolError` naming the field that is wrong."""
    return invocation_of(decode_json(text))


def invocation_of(value: Any) -> Invocation:
    """The invocation that a decoded JSON value is. Raises `ProtocolError`."""
    if not isinstance(value, dict):
        raise ProtocolError(f"the invocation has to be a JSON object, not {shown(value)}")
    given: JsonObject = {}
    for each in FIELDS:
        if (found := value.get(each.name)) is None:
            if each.required:
                raise ProtocolError(f"the invocation has no {each.name}")
        elif not each.accepts(found):
            raise ProtocolError(f"{each.fault}{each.name} has to be {each.expected}, not {shown(found)}")
        else:
            given[each.name] = found
    return Invocation(**given)


def decode_json(text: bytes) -> Any:
    """A JSON text in UTF-8; U+FFFD replaces lone surrogates. Raises `ProtocolError`."""
    try:
        return json.loads(without_lone_surrogates(text.decode("utf-8-sig")), parse_constant=_refuse_constant)
    except UnicodeDecodeError as fault:
        raise ProtocolError(f"standard input is not UTF-8: {fault.reason} at byte {fault.start}") from fault
    except RecursionError as fault:
        raise ProtocolError("standard input is bad JSON: nested too deeply") from fault
    except ValueError as fault:
        raise ProtocolError(f"standard input is bad JSON: {fault}") from fault


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def shown(value: Any) -> str:
    """A value within a message: short, and on one line."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


_SHOWN_CHARACTERS = 60
