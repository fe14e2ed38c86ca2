"""Request bodies: decoded once, into Structs, with refusals that name the field."""

import re
from typing import Any, TypeVar

import msgspec

from fsm_runner.coordinator_server.errors import Refusal, invalid_field
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.json_tree import is_deeper
from fsm_runner.protocol.statuses import CompletedSession
from fsm_runner.protocol.wire import JsonObject

T = TypeVar("T")

NESTING_LIMIT = 500
"""So deep a body may be nested. What is kept of it stands some levels deeper in answers, and both this program and its
clients come to an end of what they can write and read: one run would make the list of all of them unreadable."""

_PLACE = re.compile(r"^(?P<message>.*) - at `\$(?P<path>.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>[^`]+)`")
_PATH_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d*|\.\.\.)\]")


class CompletedReport(msgspec.Struct, frozen=True):
    """`status` of the report is not looked at: a deployed coordinator takes any."""

    runner_id: str
    session_status: CompletedSession = "finished"


class FailedReport(msgspec.Struct, frozen=True):
    runner_id: str
    error: str


class StoppedReport(msgspec.Struct, frozen=True):
    runner_id: str
    signal: str = "SIGTERM"


class SessionEndReport(msgspec.Struct, frozen=True):
    runner_id: str
    status: str


class EventHead(msgspec.Struct, frozen=True):
    """What every event has (protocol.md, section 1.4)."""

    event_type: str
    session_id: str
    timestamp: str


class Event(EventHead, frozen=True):
    """Body of `POST /sessions/{id}/events`, with the types that a deployed coordinator demands.

    What is kept is the body as it came, other fields included.
    """

    role: str | None = None
    content: list[JsonObject] | None = None
    tool_name: str | None = None
    tool_input: JsonObject | None = None
    tool_output: Any = None
    error: str | None = None
    result_text: str | None = None
    result_data: JsonObject | None = None
    exit_code: int | None = None
    reason: str | None = None


class SessionPatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `PATCH /sessions/{id}/metadata`; what is absent or null stays as it is."""

    project_dir: str | None = None
    agent_name: str | None = None
    executor_session_id: str | None = None
    executor_profile: str | None = None
    hostname: str | None = None
    last_resumed_at: str | None = None


def decode_object(body: bytes) -> JsonObject:
    """The body as a JSON object. Raises a 422 Refusal for anything else."""
    try:
        decoded: Any = decode_json(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise invalid_field(["body"], f"JSON decode error: {error}", "json_invalid") from None
    if not isinstance(decoded, dict):
        raise invalid_field(["body"], "Input should be a JSON object", "dict_type")
    # Brackets are counted first: hardly any body has so many that it has to be looked through.
    if body.count(b"{") + body.count(b"[") > NESTING_LIMIT and is_deeper(decoded, NESTING_LIMIT):
        raise _too_deep()
    return decoded


def _too_deep() -> Refusal:
    return invalid_field(["body"], "JSON is nested too deeply", "json_invalid")


def without_nulls(fields: JsonObject) -> JsonObject:
    """An explicit null counts as an absent field, as clients in the field send it."""
    return {key: value for key, value in fields.items() if value is not None}


def convert(fields: JsonObject, form: type[T], place: tuple[str | int, ...] = ("body",)) -> T:
    """The object as a Struct. Raises a 422 Refusal that names the field."""
    try:
        return msgspec.convert(without_nulls(fields), form)
    except msgspec.ValidationError as error:
        raise _field_error(str(error), place) from None


def _field_error(text: str, place: tuple[str | int, ...]) -> Refusal:
    located = _PLACE.match(text)
    message, path = (located["message"], located["path"]) if located else (text, "")
    steps: list[str | int] = [*place]
    for name, index in _PATH_STEP.findall(path):
        steps.append(name or (int(index) if index.isdigit() else index))
    if missing := _MISSING_FIELD.search(message):
        return invalid_field([*steps, missing["name"]], "Field required", "missing")
    return invalid_field(steps, message)
