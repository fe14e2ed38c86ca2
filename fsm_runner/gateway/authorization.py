"""Access control: a request may concern the endpoint's own session and its children, and no other session.

Another session's resource and one that does not exist are refused alike, so that probing reveals nothing.
"""

from typing import NamedTuple

import msgspec
from msgspec import UNSET

from fsm_runner.gateway.errors import GatewayError, not_open
from fsm_runner.gateway.forwarding import look_up
from fsm_runner.gateway.paths import is_unambiguous
from fsm_runner.gateway.request import EveryField, GatewayRequest, decode_fields, required_text, text_or_none
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, RunCreated


class Session(msgspec.Struct, frozen=True):
    session_id: str
    parent_session_id: str | None = None


class _SessionResponse(msgspec.Struct, frozen=True):
    session: Session


class RunOwner(msgspec.Struct, frozen=True):
    """The fields of a run that identify its session."""

    run_id: str
    session_id: str
    parent_session_id: str | None = None


async def require_own_or_child(request: GatewayRequest, session_id: str) -> None:
    """Raise a 403 `GatewayError` for another session, or a 502 one if the coordinator cannot be reached."""
    if session_id != request.endpoint.session_id:
        await require_child(request, session_id)


async def require_child(request: GatewayRequest, session_id: str) -> None:
    """Raise like `require_own_or_child`, also for the endpoint's own session."""
    if not await is_child(request, session_id):
        raise not_open(request.method, request.names)


async def require_own_or_child_run(request: GatewayRequest, run_id: str) -> None:
    run = await _run(request, run_id)
    if request.endpoint.session_id not in (run.session_id, run.parent_session_id):
        await require_child(request, run.session_id)


async def require_child_run(request: GatewayRequest, run_id: str) -> None:
    await require_child(request, (await _run(request, run_id)).session_id)


async def is_child(request: GatewayRequest, session_id: str) -> bool:
    """Return whether the session is a child of the endpoint's session. Raises a 502 `GatewayError`."""
    endpoint = request.endpoint
    if session_id == endpoint.session_id or not is_unambiguous(session_id):
        return False
    if endpoint.is_known_child(session_id):
        return True
    found = await look_up(request, ("sessions", session_id), _SessionResponse)
    if found is None or found.session != Session(session_id, endpoint.session_id):
        return False
    endpoint.remember_child(session_id)
    return True


class ChildRun(NamedTuple):
    """A request for a run of a child session."""

    body: bytes
    """As the executor wrote it, with the endpoint's session as the parent."""
    starts_session: bool


async def child_run(request: GatewayRequest) -> ChildRun:
    """Read the body of `POST /runs`.

    Raises a 4xx `GatewayError` if it names another parent or a session that is not a child.
    """
    fields = decode_fields(await request.body.read(), EveryField)
    own = request.endpoint.session_id
    if text_or_none(fields.get("parent_session_id", UNSET), "parent_session_id") not in {None, own}:
        raise GatewayError(403, "parent_session_id: this base URL belongs to another session")
    kind = text_or_none(fields.get("type", UNSET), "type")
    match kind:
        case "start_session":
            # The coordinator's response to a name would reveal whether a session has it.
            if text_or_none(fields.pop("session_id", UNSET), "session_id"):
                detail = "session_id: start_session gets a new session, which the Agent Coordinator names"
                raise GatewayError(403, detail)
        case "resume_session":
            if not await is_child(request, required_text(fields.get("session_id", UNSET), "session_id")):
                raise GatewayError(403, "session_id: only this session's children can be resumed")
        case _:
            raise GatewayError(400, "type: expected start_session or resume_session")
    fields["parent_session_id"] = msgspec.Raw(encode_json(own))
    return ChildRun(encode_json(fields), starts_session=kind == "start_session")


def remembered_child(request: GatewayRequest, response_body: bytes) -> str | None:
    """Remember the child of a `POST /runs`, and return its id.

    Return None if the response is unreadable. Then the child is looked up later.
    """
    try:
        created = decode_json(response_body, RunCreated)
    except DECODE_FAULTS:
        return None
    if created.session_id == request.endpoint.session_id:
        return None
    request.endpoint.remember_child(created.session_id)
    return created.session_id


async def _run(request: GatewayRequest, run_id: str) -> RunOwner:
    run = await look_up(request, ("runs", run_id), RunOwner)
    if run is None or run.run_id != run_id:
        raise not_open(request.method, request.names)
    return run
