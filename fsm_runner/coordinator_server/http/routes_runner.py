"""The runner's calls: protocol.md, section 1.1."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.http.disconnect_watcher import DisconnectWatcher
from fsm_runner.coordinator_server.http.requests import body_as, coordinator_of, object_of, required_query
from fsm_runner.coordinator_server.http.schemas import (
    CompletedReport,
    FailedReport,
    SessionEndReport,
    StoppedReport,
    registration_request_of,
)
from fsm_runner.coordinator_server.registry import Runner
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.wire import RunnerRef


class HeldPoll(Response):
    """Waits for its content, and sends it in the turn of the event loop in which it gets it."""

    def __init__(self, coordinator: Coordinator, runner: Runner) -> None:
        super().__init__(status_code=204)
        self._coordinator = coordinator
        self._runner = runner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._runner.held_poll() as wake:
            async with DisconnectWatcher(receive, wake.set) as watcher:
                content = await self._coordinator.polls.hold(self._runner, wake, watcher.is_disconnected)
                if watcher.has_noticed:
                    self._coordinator.registry.record_lost_poll(self._runner)
                response = Response(status_code=204) if content is None else json_response(content)
                await response(scope, receive, send)


async def health(request: Request) -> Response:
    problem = await coordinator_of(request).health_problem()
    if problem is not None:
        return json_response({"status": "unhealthy", "detail": problem.detail}, 503)
    return json_response({"status": "healthy"})


async def register(request: Request) -> Response:
    registration = registration_request_of(await object_of(request))
    return json_response(await coordinator_of(request).runners.register(registration))


async def poll(request: Request) -> Response:
    coordinator = coordinator_of(request)
    return HeldPoll(coordinator, await coordinator.runners.registered(required_query(request, "runner_id")))


async def heartbeat(request: Request) -> Response:
    body = await body_as(request, RunnerRef)
    await coordinator_of(request).runners.record_heartbeat(body.runner_id)
    return ok()


async def started(request: Request) -> Response:
    report = await body_as(request, RunnerRef)
    await coordinator_of(request).report_started(report.runner_id, request.path_params["run_id"])
    return ok()


async def completed(request: Request) -> Response:
    report = await body_as(request, CompletedReport)
    run_id = request.path_params["run_id"]
    await coordinator_of(request).report_completed(report.runner_id, run_id, report.session_status)
    return ok()


async def failed(request: Request) -> Response:
    report = await body_as(request, FailedReport)
    await coordinator_of(request).report_failed(report.runner_id, request.path_params["run_id"], report.error)
    return ok()


async def stopped(request: Request) -> Response:
    report = await body_as(request, StoppedReport)
    await coordinator_of(request).report_stopped(report.runner_id, request.path_params["run_id"], report.signal)
    return ok()


async def session_ended(request: Request) -> Response:
    report = await body_as(request, SessionEndReport)
    session_id = request.path_params["session_id"]
    await coordinator_of(request).report_session_end(report.runner_id, session_id, report.status)
    return ok()


async def deregister(request: Request) -> Response:
    runners, runner_id = coordinator_of(request).runners, request.path_params["runner_id"]
    if request.query_params.get("self", "").lower() in ("true", "1", "yes", "on"):
        await runners.deregister(runner_id)
        return json_response({"ok": True, "message": "Runner deregistered", "initiated_by": "self"})
    await runners.request_deregistration(runner_id)
    message = "Runner marked for deregistration"
    return json_response({"ok": True, "message": message, "initiated_by": "external"})


async def download_script(request: Request) -> Response:
    archive = await coordinator_of(request).script_archive(request.path_params["name"])
    return Response(archive, media_type="application/gzip")


def ok() -> Response:
    return json_response({"ok": True})


ROUTES = [
    Route("/runner/runs", poll),
    Route("/runner/runs/{run_id}/started", started, methods=["POST"]),
    Route("/runner/runs/{run_id}/completed", completed, methods=["POST"]),
    Route("/runner/runs/{run_id}/failed", failed, methods=["POST"]),
    Route("/runner/runs/{run_id}/stopped", stopped, methods=["POST"]),
    Route("/runner/heartbeat", heartbeat, methods=["POST"]),
    Route("/runner/register", register, methods=["POST"]),
    Route("/runner/sessions/{session_id}/status", session_ended, methods=["POST"]),
    Route("/runners/{runner_id}", deregister, methods=["DELETE"]),
    Route("/scripts/{name}/download", download_script),
    Route("/health", health),
]
