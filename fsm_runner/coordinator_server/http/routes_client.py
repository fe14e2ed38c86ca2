"""The calls of those who submit work and look at it: protocol.md, sections 1.3 and 1.4."""

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.coordinator_server.event_bus import event_text
from fsm_runner.coordinator_server.http.responses import OK, body_of, coordinator_of, json_response, object_of
from fsm_runner.coordinator_server.http.schemas import Event, SessionPatch, convert, decode_object
from fsm_runner.coordinator_server.store.database_errors import DatabaseTrouble
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.protocol.wire import Bind

AFFINITY_FIELDS = ("session_id", "hostname", "project_dir", "executor_profile", "executor_session_id")


async def create_run(request: Request) -> Response:
    return json_response(await coordinator_of(request).create_run(await object_of(request)), 201)


async def list_runs(request: Request) -> Response:
    status = request.query_params.get("status")
    runs = await coordinator_of(request).worker.do(lambda store: store.runs.all(status))
    return json_response({"runs": runs})


async def get_run(request: Request) -> Response:
    run_id = request.path_params["run_id"]
    return json_response(await coordinator_of(request).worker.do(lambda store: store.runs.get(run_id)))


async def stop_run(request: Request) -> Response:
    return json_response(await coordinator_of(request).stop(Store.stop_run, request.path_params["run_id"]))


async def list_runners(request: Request) -> Response:
    return json_response({"runners": await coordinator_of(request).runners()})


async def list_agents(request: Request) -> Response:
    coordinator = coordinator_of(request)
    await coordinator.expire_runners()
    wanted = (tag.strip() for tag in request.query_params.get("tags", "").split(","))
    agents = coordinator.agents.tagged(frozenset(tag for tag in wanted if tag))
    return json_response([agent.shown for agent in agents])


async def get_agent(request: Request) -> Response:
    coordinator = coordinator_of(request)
    await coordinator.expire_runners()
    agent = coordinator.agents.by_name.get(request.path_params["name"])
    if agent is None:
        raise Refusal(404, f"Agent not found: {request.path_params['name']}")
    return json_response(agent.shown)


async def list_sessions(request: Request) -> Response:
    return json_response({"sessions": await coordinator_of(request).worker.do(lambda store: store.sessions.all())})


async def get_session(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    session = await coordinator_of(request).worker.do(lambda store: store.sessions.get(session_id))
    return json_response({"session": session})


async def session_status(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    session = await coordinator_of(request).worker.do(lambda store: store.sessions.find(session_id))
    return json_response({"status": "not_existent" if session is None else session["status"]})


async def session_result(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    return json_response(await coordinator_of(request).worker.do(lambda store: store.sessions.result(session_id)))


async def session_affinity(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    session = await coordinator_of(request).worker.do(lambda store: store.sessions.get(session_id))
    return json_response({"affinity": {field: session[field] for field in AFFINITY_FIELDS}})


async def session_events(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    events = await coordinator_of(request).worker.do(lambda store: store.sessions.events(session_id))
    return json_response({"events": events})


async def add_event(request: Request) -> Response:
    body = await body_of(request)
    event = convert(decode_object(body), Event)
    await coordinator_of(request).worker.do(Store.add_event, request.path_params["session_id"], event, body)
    return json_response(OK, 201)


async def bind_session(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    binding = convert(await object_of(request), Bind)
    session = await coordinator_of(request).worker.do(lambda store: store.sessions.bind(session_id, binding))
    return json_response({"ok": True, "session": session})


async def patch_session(request: Request) -> Response:
    session_id = request.path_params["session_id"]
    patch = convert(await object_of(request), SessionPatch)
    session = await coordinator_of(request).worker.do(lambda store: store.sessions.patch(session_id, patch))
    return json_response({"ok": True, "session": session})


async def stop_session(request: Request) -> Response:
    return json_response(await coordinator_of(request).stop(Store.stop_session, request.path_params["session_id"]))


async def delete_session(request: Request) -> Response:
    return json_response(
        await coordinator_of(request).worker.do(Store.delete_session, request.path_params["session_id"])
    )


async def stream_sessions(request: Request) -> Response:
    session_id = request.query_params.get("session_id")
    with_init = request.query_params.get("include_init", "true").lower() != "false"
    return StreamingResponse(
        _changes(coordinator_of(request), session_id, with_init=with_init),
        media_type="text/event-stream",
        # nginx collects an answer before it passes it on, unless this header forbids it.
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _changes(coordinator: Coordinator, session_id: str | None, *, with_init: bool) -> AsyncIterator[bytes]:
    subscription = coordinator.hub.subscribe(session_id)
    try:
        if with_init:
            sessions = await coordinator.worker.do(lambda store: store.sessions.all())
            shown = [each for each in sessions if session_id in (None, each["session_id"])]
            yield event_text("init", {"sessions": shown})
        async for text in subscription.texts(coordinator.timings.keep_alive_s):
            yield text
    except DatabaseTrouble:  # logged by the worker; the answer has begun, so it can only end
        return
    finally:
        coordinator.hub.unsubscribe(subscription)


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
