"""The requests that are open to executors. All others are refused, whatever the coordinator would answer."""

from fsm_runner.gateway import authorization, messages
from fsm_runner.gateway.errors import GatewayError, not_open
from fsm_runner.gateway.forwarding import forward, submit
from fsm_runner.gateway.request import GatewayRequest

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
            response_body = await submit(request, await authorization.child_run_body(request))
            if response_body is not None:
                authorization.remember_created_run(request, response_body)
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
