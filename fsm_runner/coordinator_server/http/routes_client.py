"""The clients' calls, which submit and query work: protocol.md, sections 1.3 and 1.4."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fsm_runner.coordinator_server.http.requests import body_as, body_of, coordinator_of, object_of
from fsm_runner.coordinator_server.http.schemas import Event, convert, decode_object, run_request_of
from fsm_runner.coordinator_server.store.sessions import OPTIONAL_FIELDS, WORKFLOW_COLUMN, SessionPatch
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.wire import Bind, JsonObject


def stored(
    query: Callable[[Store], Callable[..., object]], key: str | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that responds with the result of a query, as `{key: result}` if there is a key.

    `query` names a method of the store. It gets the parameters of the path.
    """

    async def endpoint(request: Request) -> Response:
        found = await coordinator_of(request).worker.do(lambda store: query(store)(**request.path_params))
        return json_response(found if key is None else {key: found})

    return endpoint


async def create_run(request: Request) -> Response:
    run_request, demands = run_request_of(await object_of(request))
    return json_response(await coordinator_of(request).create_run(run_request, demands), 201)


async def list_runs(request: Request) -> Response:
    coordinator, status = coordinator_of(request), request.query_params.get("status")
    runs = await coordinator.worker.do(lambda store: store.runs.all(status))
    # A runner that does not poll at present looks for stop requests here.
    approvals = await coordinator.approvals.undelivered() if status == "stopping" else []
    return json_response({"runs": runs, "approvals": approvals} if approvals else {"runs": runs})


async def stop_run(request: Request) -> Response:
    return json_response(await coordinator_of(request).stop(Store.stop_run, request.path_params["run_id"]))


async def stop_session(request: Request) -> Response:
    return json_response(await coordinator_of(request).stop(Store.stop_session, request.path_params["session_id"]))


async def list_runners(request: Request) -> Response:
    return json_response({"runners": await coordinator_of(request).runners.listed()})


async def list_agents(request: Request) -> Response:
    tags = (tag.strip() for tag in request.query_params.get("tags", "").split(","))
    return json_response(await coordinator_of(request).agents_tagged(frozenset(tag for tag in tags if tag)))


async def get_agent(request: Request) -> Response:
    return json_response(await coordinator_of(request).agent(request.path_params["name"]))


async def delete_session(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    deleted = await coordinator_of(request).worker.do(lambda store: store.sessions.delete(session_id))
    return json_response({"ok": True, "session_id": session_id, "deleted": deleted})


async def add_event(request: Request) -> Response:
    body = await body_of(request)
    event = convert(decode_object(body), Event)
    await coordinator_of(request).worker.do(Store.add_event, request.path_params["session_id"], event, body)
    return json_response({"ok": True}, 201)


async def bind_session(request: Request) -> Response:
    fields = msgspec.to_builtins(await body_as(request, Bind))
    return await _updated(request, {**fields, "status": "running"})


async def patch_session(request: Request) -> Response:
    body = await object_of(request)
    fields = msgspec.to_builtins(convert(body, SessionPatch))
    for name, column in OPTIONAL_FIELDS.items():
        value = fields.pop(name, None)
        if name in body:
            fields[column] = None if value is None else msgspec.json.encode(value)
    response = await _updated(request, fields)
    if WORKFLOW_COLUMN in fields:
        await coordinator_of(request).approvals.note_workflow(request.path_params["session_id"])
    return response


async def _updated(request: Request, fields: JsonObject) -> Response:
    session = await coordinator_of(request).worker.do(
        lambda store: store.sessions.update(request.path_params["session_id"], **fields)
    )
    return json_response({"ok": True, "session": session})


async def stream_sessions(request: Request) -> Response:
    with_init = request.query_params.get("include_init", "true").lower() != "false"
    return StreamingResponse(
        coordinator_of(request).event_stream(request.query_params.get("session_id"), with_init=with_init),
        media_type="text/event-stream",
        # nginx buffers responses unless this header forbids it.
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


ROUTES = [
    Route("/runs", create_run, methods=["POST"]),
    Route("/runs", list_runs),
    Route("/runs/{run_id}", stored(lambda store: store.runs.get)),
    Route("/runs/{run_id}/stop", stop_run, methods=["POST"]),
    Route("/runners", list_runners),
    Route("/agents", list_agents),
    Route("/agents/{name}", get_agent),
    Route("/sessions", stored(lambda store: store.sessions.all, "sessions")),
    Route("/sessions/{session_id}", stored(lambda store: store.sessions.get, "session")),
    Route("/sessions/{session_id}", delete_session, methods=["DELETE"]),
    Route("/sessions/{session_id}/status", stored(lambda store: store.sessions.status, "status")),
    Route("/sessions/{session_id}/result", stored(lambda store: store.sessions.result)),
    Route("/sessions/{session_id}/affinity", stored(lambda store: store.sessions.affinity, "affinity")),
    Route("/sessions/{session_id}/events", stored(lambda store: store.sessions.events, "events")),
    Route("/sessions/{session_id}/events", add_event, methods=["POST"]),
    Route("/sessions/{session_id}/bind", bind_session, methods=["POST"]),
    Route("/sessions/{session_id}/metadata", patch_session, methods=["PATCH"]),
    Route("/sessions/{session_id}/stop", stop_session, methods=["POST"]),
    Route("/sse/sessions", stream_sessions),
]
