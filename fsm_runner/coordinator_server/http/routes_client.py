"""The clients' calls, which submit and query work: protocol.md, sections 1.3 and 1.4."""

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fsm_runner.coordinator_server.http.requests import body_as, body_of, coordinator_of, object_of
from fsm_runner.coordinator_server.http.schemas import Event, convert, decode_object, run_request_of
from fsm_runner.coordinator_server.store.sessions import SessionPatch
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.wire import Bind

AFFINITY_FIELDS = ("session_id", "hostname", "project_dir", "executor_profile", "executor_session_id")


async def create_run(request: Request) -> Response:
    run_request, demands = run_request_of(await object_of(request))
    return json_response(await coordinator_of(request).create_run(run_request, demands), 201)


async def list_runs(request: Request) -> Response:
    return json_response({"runs": await coordinator_of(request).runs(request.query_params.get("status"))})


async def get_run(request: Request) -> Response:
    return json_response(await coordinator_of(request).run(request.path_params["run_id"]))


async def stop_run(request: Request) -> Response:
    return json_response(await coordinator_of(request).stop_run(request.path_params["run_id"]))


async def list_runners(request: Request) -> Response:
    return json_response({"runners": await coordinator_of(request).runners.listed()})


async def list_agents(request: Request) -> Response:
    tags = (tag.strip() for tag in request.query_params.get("tags", "").split(","))
    return json_response(await coordinator_of(request).agents_tagged(frozenset(tag for tag in tags if tag)))


async def get_agent(request: Request) -> Response:
    return json_response(await coordinator_of(request).agent(request.path_params["name"]))


async def list_sessions(request: Request) -> Response:
    return json_response({"sessions": await coordinator_of(request).sessions()})


async def get_session(request: Request) -> Response:
    return json_response({"session": await coordinator_of(request).session(request.path_params["session_id"])})


async def session_status(request: Request) -> Response:
    return json_response({"status": await coordinator_of(request).session_status(request.path_params["session_id"])})


async def session_result(request: Request) -> Response:
    return json_response(await coordinator_of(request).session_result(request.path_params["session_id"]))


async def session_affinity(request: Request) -> Response:
    session = await coordinator_of(request).session(request.path_params["session_id"])
    return json_response({"affinity": {field: session[field] for field in AFFINITY_FIELDS}})


async def session_events(request: Request) -> Response:
    return json_response({"events": await coordinator_of(request).session_events(request.path_params["session_id"])})


async def add_event(request: Request) -> Response:
    body = await body_of(request)
    event = convert(decode_object(body), Event)
    await coordinator_of(request).add_event(request.path_params["session_id"], event, body)
    return json_response({"ok": True}, 201)


async def bind_session(request: Request) -> Response:
    binding = await body_as(request, Bind)
    session = await coordinator_of(request).bind_session(request.path_params["session_id"], binding)
    return json_response({"ok": True, "session": session})


async def patch_session(request: Request) -> Response:
    patch = await body_as(request, SessionPatch)
    session = await coordinator_of(request).patch_session(request.path_params["session_id"], patch)
    return json_response({"ok": True, "session": session})


async def stop_session(request: Request) -> Response:
    return json_response(await coordinator_of(request).stop_session(request.path_params["session_id"]))


async def delete_session(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    deleted = await coordinator_of(request).delete_session(session_id)
    return json_response({"ok": True, "session_id": session_id, "deleted": deleted})


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
    Route("/runs/{run_id}", get_run),
    Route("/runs/{run_id}/stop", stop_run, methods=["POST"]),
    Route("/runners", list_runners),
    Route("/agents", list_agents),
    Route("/agents/{name}", get_agent),
    Route("/sessions", list_sessions),
    Route("/sessions/{session_id}", get_session),
    Route("/sessions/{session_id}", delete_session, methods=["DELETE"]),
    Route("/sessions/{session_id}/status", session_status),
    Route("/sessions/{session_id}/result", session_result),
    Route("/sessions/{session_id}/affinity", session_affinity),
    Route("/sessions/{session_id}/events", session_events),
    Route("/sessions/{session_id}/events", add_event, methods=["POST"]),
    Route("/sessions/{session_id}/bind", bind_session, methods=["POST"]),
    Route("/sessions/{session_id}/metadata", patch_session, methods=["PATCH"]),
    Route("/sessions/{session_id}/stop", stop_session, methods=["POST"]),
    Route("/sse/sessions", stream_sessions),
]
