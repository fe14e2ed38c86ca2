"""The messages between runner and executor. Contract: protocol.md, section 2."""

import json
import re
from enum import Enum, auto
from typing import Literal

import msgspec

from fsm_runner.executors.interface import Assignment
from fsm_runner.executors.line_splitter import Line
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject, Run

SCHEMA_VERSION: Literal["2.2"] = "2.2"

_TYPE_FIRST = re.compile(rb'\s*\{\s*"type"\s*:\s*"turn_complete"')
_TYPE_LAST = re.compile(rb'"type"\s*:\s*"turn_complete"\s*\}\s*\Z')


class Invocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The object on an executor's standard input."""

    schema_version: Literal["2.2"]
    mode: Literal["start", "resume"]
    session_id: str
    parameters: JsonObject
    project_dir: str | None = None
    """None for a resume."""
    agent_name: str | None = None
    agent_blueprint: JsonObject | None = None
    executor_config: JsonObject | None = None
    """The profile's `config`."""
    metadata: JsonObject | None = None
    """Part of the format (docs/protocol.md, section 2); the runner does not send it."""


class _Message(msgspec.Struct, frozen=True):
    type: str
    limited: msgspec.Raw = msgspec.Raw(b"false")


def invocation_line(assignment: Assignment, executor_config: JsonObject) -> bytes:
    run = assignment.run
    is_start = run.type == "start_session"
    invocation = Invocation(
        schema_version=SCHEMA_VERSION,
        mode="start" if is_start else "resume",
        session_id=run.session_id,
        parameters=run.parameters,
        project_dir=assignment.project_dir if is_start else None,
        agent_name=run.agent_name,
        agent_blueprint=run.resolved_agent_blueprint,
        executor_config={**executor_config, **assignment.config},
    )
    return encode_json(invocation) + b"\n"


def turn_line(run: Run) -> bytes:
    return encode_json({"type": "turn", "parameters": run.parameters}) + b"\n"


TURN_COMPLETE = b"turn_complete"
"""Every line that ends a turn contains this. (JSON could also escape it, but no JSON writer does.)"""

SHUTDOWN_LINE = b'{"type":"shutdown"}\n'


class TurnEnd(Enum):
    """How a turn ended that its executor has survived."""

    COMPLETE = auto()
    LIMITED = auto()
    """A limit of the provider was reached."""


def turn_end(line: Line) -> TurnEnd | None:
    """Return how the line ends a turn; None if it does not.

    A line that was cut is recognized if its type is the first or last field.
    """
    if line.cut:
        return TurnEnd.COMPLETE if _TYPE_FIRST.match(line.content) or _TYPE_LAST.search(line.end) else None
    try:
        message = msgspec.json.decode(line.content, type=_Message)
        kind: object = message.type
        is_limited = bytes(message.limited) == b"true"
    except DECODE_FAULTS:
        kind, is_limited = _lenient_message(line.content)
    if kind != "turn_complete":
        return None
    return TurnEnd.LIMITED if is_limited else TurnEnd.COMPLETE


def _lenient_message(content: bytes) -> tuple[object, bool]:
    """Decode what Python's `json` writes and strict decoders reject: NaN and lone surrogates."""
    try:
        message = json.loads(content.decode(errors="replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None, False
    return (message.get("type"), message.get("limited") is True) if isinstance(message, dict) else (None, False)
