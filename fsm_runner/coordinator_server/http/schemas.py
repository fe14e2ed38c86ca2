"""Request bodies, decoded into Structs. Errors name the field."""

import hashlib
import re
from typing import Any, TypeVar

import msgspec

from fsm_runner.coordinator_server.agents import AgentOwner, CatalogAgent
from fsm_runner.coordinator_server.errors import InvalidField
from fsm_runner.coordinator_server.matching import Capabilities, Demands, demands_from
from fsm_runner.coordinator_server.registry import runner_id_of
from fsm_runner.coordinator_server.runners import RegistrationRequest
from fsm_runner.coordinator_server.store.interface import EventHead
from fsm_runner.protocol.approvals import WorkflowState
from fsm_runner.protocol.event_clock import utc_from
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.json_tree import is_deeper, without_nulls
from fsm_runner.protocol.statuses import CompletedSession
from fsm_runner.protocol.wire import JsonObject, Registration, RunnerRef, RunRequest

T = TypeVar("T")

NESTING_LIMIT = 500
"""The deepest permitted nesting. Responses add levels, and neither this program nor its clients can encode or decode
any depth: one run could make the list of all runs unreadable."""

_LOCATION = re.compile(r"^(?P<message>.*) - at `\$(?P<path>.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>[^`]+)`")
_PATH_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d*|\.\.\.)\]")


class CompletedReport(RunnerRef, frozen=True):
    """The report's `status` is ignored, as a deployed coordinator accepts any."""

    session_status: CompletedSession = "finished"


class FailedReport(RunnerRef, frozen=True):
    error: str


class StoppedReport(RunnerRef, frozen=True):
    signal: str = "SIGTERM"


class SessionEndReport(RunnerRef, frozen=True):
    status: str


class SessionPatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `PATCH /sessions/{id}/metadata`. Absent and null fields stay unchanged, but null deletes the last two."""

    project_dir: str | None = None
    agent_name: str | None = None
    executor_session_id: str | None = None
    executor_profile: str | None = None
    hostname: str | None = None
    last_resumed_at: str | None = None
    limit: JsonObject | None = None
    """The provider's limit for which a run of the session waits (section 2.3)."""
    workflow: WorkflowState | None = None
    """Where the workflow of the session's run is (section 1.4)."""


class Event(EventHead, frozen=True):
    """Body of `POST /sessions/{id}/events`, with the types that a deployed coordinator demands.

    The body is stored as received, with all other fields.
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


def decode_object(body: bytes) -> JsonObject:
    """Return the body as a JSON object. Raises `InvalidField`."""
    try:
        decoded: Any = decode_json(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidField(["body"], f"JSON decode error: {error}", "json_invalid") from None
    if not isinstance(decoded, dict):
        raise InvalidField(["body"], "Input should be a JSON object", "dict_type")
    # Counting brackets first avoids walking nearly all bodies.
    if body.count(b"{") + body.count(b"[") > NESTING_LIMIT and is_deeper(decoded, NESTING_LIMIT):
        raise _too_deep()
    return decoded


def _too_deep() -> InvalidField:
    return InvalidField(["body"], "JSON is nested too deeply", "json_invalid")


def convert(fields: JsonObject, form: type[T]) -> T:
    """Return the body's fields as a Struct. Raises `InvalidField`."""
    try:
        return msgspec.convert(without_nulls(fields), form)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None


def run_request_of(body: JsonObject) -> tuple[RunRequest, Demands]:
    """Return the request, whose `not_before` is in UTC, and its additional demands. Raises `InvalidField`."""
    request = convert(body, RunRequest)
    try:
        demands = demands_from(request.additional_demands)
    except msgspec.ValidationError as error:
        raise InvalidField(["body", "additional_demands"], str(error)) from None
    try:
        not_before = None if request.not_before is None else utc_from(request.not_before)
    except ValueError as error:
        raise InvalidField(["body", "not_before"], str(error)) from None
    return msgspec.structs.replace(request, not_before=not_before), demands


def digest_of(body: JsonObject) -> bytes:
    """Return what identifies a request: the same fields, in any order, give the same digest."""
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).digest()


def registration_request_of(body: JsonObject) -> RegistrationRequest:
    """Raises `InvalidField`."""
    executor, agents = body.get("executor"), body.get("agents")
    cleaned = {**body, "executor": _cleaned(executor)}
    if isinstance(agents, list):
        cleaned["agents"] = [_cleaned(agent) for agent in agents]
    given = convert(cleaned, Registration)
    owner = AgentOwner(given.executor_profile, given.executor.type)
    try:
        owned = [CatalogAgent(definition, owner) for definition in agents or []]
    except msgspec.ValidationError as error:
        raise InvalidField(["body", "agents"], str(error)) from None
    capabilities = Capabilities(
        runner_id=runner_id_of(given.hostname, given.project_dir, given.executor_profile, given.executor.command),
        hostname=given.hostname,
        project_dir=given.project_dir,
        executor_profile=given.executor_profile,
        executor_type=given.executor.type,
        tags=frozenset(given.tags),
        require_matching_tags=given.require_matching_tags,
        owned_agents=frozenset(agent.name for agent in owned),
    )
    return RegistrationRequest(capabilities, executor if isinstance(executor, dict) else {}, owned)


def _cleaned(value: Any) -> Any:
    return without_nulls(value) if isinstance(value, dict) else value


def _field_error(text: str) -> InvalidField:
    """Translate an error of msgspec to the form that FastAPI gives."""
    located = _LOCATION.match(text)
    message, path = (located["message"], located["path"]) if located else (text, "")
    steps: list[str | int] = ["body"]
    for name, index in _PATH_STEP.findall(path):
        steps.append(name or (int(index) if index.isdigit() else index))
    if missing := _MISSING_FIELD.search(message):
        return InvalidField([*steps, missing["name"]], "Field required", "missing")
    return InvalidField(steps, message)
