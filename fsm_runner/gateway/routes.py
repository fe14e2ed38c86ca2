"""The requests that are open to executors. All others are refused, whatever the coordinator would answer."""

from functools import partial

import httpx
import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.children import ChildRefused
from fsm_runner.gateway import authorization, messages
from fsm_runner.gateway.errors import GatewayError, coordinator_unreachable, not_open
from fsm_runner.gateway.forwarding import forward, submit
from fsm_runner.gateway.request import GatewayRequest
from fsm_runner.http_server.responses import json_response
from fsm_runner.util.text import excerpt

_MESSAGES = {
    ("POST", "bind"): messages.bind,
    ("POST", "events"): messages.event,
    ("PATCH", "metadata"): messages.metadata,
}


async def handle(request: GatewayRequest) -> None:
    """Answer the request. Raises `GatewayError` if it is refused or fails."""
    match request.names:
        case (kind,) | ("sessions", request.endpoint.session_id, kind) if (request.method, kind) in _MESSAGES:
            await _MESSAGES[request.method, kind](request)
        case _:
            with request.endpoint.forwarding():
                await request.run_until_disconnect(_forward(request))


async def _forward(request: GatewayRequest) -> None:
    match request.method, request.names:
        case "POST", ("runs",):
            await _submit(request)
        case "POST", ("runs", run_id, "stop"):
            request.body.discard_if_absent()
            await authorization.require_child_run(request, run_id)
            await forward(request)
        case "POST", ("sessions", session_id, "stop"):
            request.body.discard_if_absent()
            await authorization.require_child(request, session_id)
            await forward(request)
        case "GET", names:
            request.body.discard()
            await _read(request, names)
        case _:
            raise not_open(request.method, request.names)


async def _read(request: GatewayRequest, names: tuple[str, ...]) -> None:
    match names:
        case ("health",) | ("agents", _):
            await forward(request)
        case ("agents",):
            await forward(request, request.query("tags"))
        case ("sessions", request.endpoint.session_id):
            await _read_own_session(request)
        case ("sessions", session_id) | ("sessions", session_id, "status" | "result" | "events" | "affinity"):
            await authorization.require_own_or_child(request, session_id)
            await forward(request)
        case ("runs", run_id):
            await authorization.require_own_or_child_run(request, run_id)
            await forward(request)
        case ("sse", "sessions"):
            query = request.query("session_id", "include_init")
            if "session_id" not in query:
                # Such a stream has the events of all sessions.
                detail = "The stream of all sessions is not open to executors: name one with session_id"
                raise GatewayError(403, detail)
            await authorization.require_own_or_child(request, query["session_id"])
            await forward(request, query)
        case _:
            raise not_open(request.method, request.names)


async def _read_own_session(request: GatewayRequest) -> None:
    """Answer from the session's bind while the coordinator is away or does not have it: an executor that resumes needs
    its `executor_session_id`.
    """
    bind = request.endpoint.channel.last_bind
    if bind is None or bind.delivery.done():
        try:
            await forward(request)
        except GatewayError as error:
            if bind is None or error.status != httpx.codes.BAD_GATEWAY:
                raise
        else:
            return
    session = {"session_id": request.endpoint.session_id, "status": "running", **msgspec.to_builtins(bind.body)}
    await request.respond(json_response({"session": session}))


async def _submit(request: GatewayRequest) -> None:
    """Submit a run of a child session."""
    run = await authorization.child_run(request)
    if not run.starts_session:
        await submit(request, run.body, partial(authorization.remembered_child, request))
        return
    endpoint = request.endpoint
    try:
        async with endpoint.child_bounds(endpoint.session_id) as started:

            def on_accepted(response_body: bytes) -> None:
                if (child_id := authorization.remembered_child(request, response_body)) is not None:
                    started(child_id)

            await submit(request, run.body, on_accepted)
    except ChildRefused as refusal:
        raise GatewayError(403, str(refusal)) from None
    except CoordinatorError:
        raise coordinator_unreachable() from None
    except FsmRunnerError as fault:
        logger.warning("gateway: {}: it cannot start a session: {}", excerpt(endpoint.session_id), excerpt(str(fault)))
        raise GatewayError(502, "The runner cannot count the sessions of this one at the moment") from None
