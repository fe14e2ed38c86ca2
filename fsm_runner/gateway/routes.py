"""The requests that are open to executors. All others are refused, whatever the coordinator would answer."""

from fsm_runner.gateway import authorization, messages
from fsm_runner.gateway.errors import GatewayError
from fsm_runner.gateway.forwarding import forward, submit
from fsm_runner.gateway.request import GatewayRequest


async def handle(request: GatewayRequest) -> None:
    """Answer the request. Raises `GatewayError` if it is refused or fails."""
    own = request.endpoint.session_id
    match request.method, request.names:
        case "POST", ("bind",):
            await messages.bind(request)
        case "POST", ("events",):
            await messages.event(request)
        case "PATCH", ("metadata",):
            await messages.metadata(request)
        case "POST", ("sessions", session_id, "bind") if session_id == own:
            await messages.bind(request, session_in_path=True)
        case "POST", ("sessions", session_id, "events") if session_id == own:
            await messages.event(request, session_in_path=True)
        case "PATCH", ("sessions", session_id, "metadata") if session_id == own:
            await messages.metadata(request, session_in_path=True)
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
            raise request.not_open()


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
            await _stream_session_events(request)
        case _:
            raise request.not_open()


async def _stream_session_events(request: GatewayRequest) -> None:
    """Forward one session's stream: a stream without `session_id` has the events of all sessions."""
    query = request.query("session_id", "include_init")
    if "session_id" not in query:
        raise GatewayError(403, "The stream of all sessions is not open to executors: name one with session_id")
    await authorization.require_own_or_child(request, query["session_id"])
    await forward(request, query)
