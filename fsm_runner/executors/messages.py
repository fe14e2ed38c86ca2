"""The messages between runner and executor. Contract: protocol.md, section 2."""

import json
import re
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
        executor_config=executor_config,
    )
    return encode_json(invocation) + b"\n"


def turn_line(run: Run) -> bytes:
    return encode_json({"type": "turn", "parameters": run.parameters}) + b"\n"


TURN_COMPLETE = b"turn_complete"
"""Every line that ends a turn contains this. (JSON could also escape it, but no JSON writer does.)"""

SHUTDOWN_LINE = b'{"type":"shutdown"}\n'


def is_turn_complete(line: Line) -> bool:
    """Return True if the line ends a turn. A line that was cut is recognized if its type is the first or last field."""
    if line.cut:
        return bool(_TYPE_FIRST.match(line.content) or _TYPE_LAST.search(line.end))
    try:
        return msgspec.json.decode(line.content, type=_Message).type == "turn_complete"
    except DECODE_FAULTS:
        return _is_lenient_turn_complete(line.content)


def _is_lenient_turn_complete(content: bytes) -> bool:
    """Decode what Python's `json` writes and strict decoders reject: NaN and lone surrogates."""
    try:
        message = json.loads(content.decode(errors="replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") == "turn_complete"
