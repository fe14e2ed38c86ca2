"""The clients' calls, which submit and query work: protocol.md, sections 1.3 and 1.4."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fsm_runner.coordinator_server.http.requests import (
    author_of,
    body_as,
    body_of,
    coordinator_of,
    object_of,
    page_of,
    run_filter_of,
)
from fsm_runner.coordinator_server.http.schemas import (
    Event,
    SessionPatch,
    convert,
    decode_object,
    digest_of,
    run_request_of,
)
from fsm_runner.coordinator_server.store.interface import Listed, Store
from fsm_runner.coordinator_server.submission import options_of
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.wire import Bind, JsonObject

DELETED_BY_NULL = ("limit", "workflow")
"""The fields of a session, each a JSON object, that it has only if they are set."""
AFFINITY_FIELDS = ("session_id", "hostname", "project_dir", "executor_profile", "executor_session_id")


def stored(
    query: Callable[[Store], Callable[..., Awaitable[object]]], key: str | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that responds with the result of a query, as `{key: result}` if there is a key.

    `query` names a method of the store. It gets the parameters of the path.
    """

    async def endpoint(request: Request) -> Response:
        found = await query(coordinator_of(request).store)(**request.path_params)
        return json_response(found if key is None else {key: found})

    return endpoint


async def create_run(request: Request) -> Response:
    body = await object_of(request)
    run_request, demands = run_request_of(body)
    digest = b"" if run_request.idempotency_key is None else digest_of(body)
    created = await coordinator_of(request).create_run(run_request, demands, digest)
    response = {"run_id": created.run_id, "session_id": created.session_id, "status": created.status}
    # A client relies on an option only if the response repeats it.
    return json_response({**response, **msgspec.to_builtins(options_of(run_request))}, 201)


async def list_runs(request: Request) -> Response:
    coordinator, chosen = coordinator_of(request), run_filter_of(request)
    content = _listing("runs", await coordinator.store.runs(chosen, page_of(request)))
    # A runner that does not poll at present looks for stop requests here.
    approvals = await coordinator.approvals.undelivered() if chosen.status == "stopping" else []
    return json_response({**content, "approvals": approvals} if approvals else content)


async def list_sessions(request: Request) -> Response:
    return json_response(_listing("sessions", await coordinator_of(request).store.sessions(page_of(request))))


def _listing(key: str, listed: Listed) -> JsonObject:
    content: JsonObject = {key: listed.items}
    if listed.next is not None:
        content["next"] = str(listed.next)
    if listed.is_truncated:
        content["truncated"] = True
    return content


async def stop_run(request: Request) -> Response:
    coordinator = coordinator_of(request)
    return json_response(await coordinator.stop(coordinator.store.stop_run(request.path_params["run_id"])))


async def stop_session(request: Request) -> Response:
    coordinator = coordinator_of(request)
    return json_response(await coordinator.stop(coordinator.store.stop_session(request.path_params["session_id"])))


async def show_queue(request: Request) -> Response:
    coordinator = coordinator_of(request)
    return json_response({"queue": await coordinator.store.queue(coordinator.agents.max_running)})


async def list_runners(request: Request) -> Response:
    return json_response({"runners": await coordinator_of(request).runners.listed()})


async def list_agents(request: Request) -> Response:
    tags = (tag.strip() for tag in request.query_params.get("tags", "").split(","))
    return json_response(await coordinator_of(request).agents_tagged(frozenset(tag for tag in tags if tag)))


async def get_agent(request: Request) -> Response:
    return json_response(await coordinator_of(request).agent(request.path_params["name"]))


async def get_affinity(request: Request) -> Response:
    session = await coordinator_of(request).store.session(request.path_params["session_id"])
    return json_response({"affinity": {name: session[name] for name in AFFINITY_FIELDS}})


async def delete_session(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    deleted = await coordinator_of(request).store.delete_session(session_id)
    return json_response({"ok": True, "session_id": session_id, "deleted": deleted})


async def add_event(request: Request) -> Response:
    body, author = await body_of(request), author_of(request)
    event = convert(decode_object(body), Event)
    await coordinator_of(request).store.add_event(request.path_params["session_id"], event, body, author)
    return json_response({"ok": True}, 201)


async def bind_session(request: Request) -> Response:
    bind, session_id = await body_as(request, Bind), request.path_params["session_id"]
    session = await coordinator_of(request).bind(session_id, bind, author_of(request))
    return json_response({"ok": True, "session": session})


async def patch_session(request: Request) -> Response:
    body = await object_of(request)
    fields = msgspec.to_builtins(convert(body, SessionPatch))
    for name in DELETED_BY_NULL:
        if name in body:
            fields[name] = None if fields.get(name) is None else msgspec.json.encode(fields[name])
    coordinator, session_id = coordinator_of(request), request.path_params["session_id"]
    session = await coordinator.store.update_session(session_id, author_of(request), **fields)
    if "workflow" in fields:
        await coordinator.approvals.note_workflow(session_id)
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
    Route("/runs/{run_id}", stored(lambda store: store.run)),
    Route("/runs/{run_id}/stop", stop_run, methods=["POST"]),
    Route("/runners", list_runners),
    Route("/agents", list_agents),
    Route("/agents/{name}", get_agent),
    Route("/queue", show_queue),
    Route("/sessions", list_sessions),
    Route("/sessions/{session_id}", stored(lambda store: store.session, "session")),
    Route("/sessions/{session_id}", delete_session, methods=["DELETE"]),
    Route("/sessions/{session_id}/status", stored(lambda store: store.session_status, "status")),
    Route("/sessions/{session_id}/result", stored(lambda store: store.session_result)),
    Route("/sessions/{session_id}/affinity", get_affinity),
    Route("/sessions/{session_id}/events", stored(lambda store: store.session_events, "events")),
    Route("/sessions/{session_id}/events", add_event, methods=["POST"]),
    Route("/sessions/{session_id}/bind", bind_session, methods=["POST"]),
    Route("/sessions/{session_id}/metadata", patch_session, methods=["PATCH"]),
    Route("/sessions/{session_id}/stop", stop_session, methods=["POST"]),
    Route("/sse/sessions", stream_sessions),
]
