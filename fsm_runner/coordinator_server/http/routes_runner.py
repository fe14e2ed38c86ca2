"""The calls of a runner: protocol.md, section 1.1."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.coordinator_server.http.disconnect_watcher import DisconnectWatcher
from fsm_runner.coordinator_server.http.responses import OK, coordinator_of, json_response, object_of, required_query
from fsm_runner.coordinator_server.http.schemas import (
    CompletedReport,
    FailedReport,
    SessionEndReport,
    StoppedReport,
    convert,
)
from fsm_runner.coordinator_server.registry import Runner
from fsm_runner.coordinator_server.store.database_errors import UNAVAILABLE
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.protocol.wire import RunnerRef


class HeldPoll(Response):
    """Finds its content while the client waits, and sends it in the same turn of the event loop."""

    def __init__(self, coordinator: Coordinator, runner: Runner) -> None:
        super().__init__(status_code=204)
        self._coordinator = coordinator
        self._runner = runner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._runner.held_poll() as wake:
            async with DisconnectWatcher(receive, wake.set) as hangup:
                answer = await self._coordinator.polls.hold(self._runner, wake, hangup)
                if hangup.was_noticed:
                    self._coordinator.registry.hung_up(self._runner)
                response = Response(status_code=204) if answer is None else json_response(answer)
                await response(scope, receive, send)


async def health(request: Request) -> Response:
    trouble = await coordinator_of(request).worker.trouble()
    if trouble is not None:
        return json_response({"status": "unhealthy", "detail": str(trouble)}, UNAVAILABLE)
    return json_response({"status": "healthy"})


async def register(request: Request) -> Response:
    return json_response(await coordinator_of(request).register(await object_of(request)))


async def poll(request: Request) -> Response:
    coordinator = coordinator_of(request)
    return HeldPoll(coordinator, await coordinator.registered(required_query(request, "runner_id")))


async def heartbeat(request: Request) -> Response:
    coordinator = coordinator_of(request)
    body = convert(await object_of(request), RunnerRef)
    coordinator.registry.heard(await coordinator.registered(body.runner_id))
    return json_response(OK)


async def started(request: Request) -> Response:
    coordinator = coordinator_of(request)
    report = convert(await object_of(request), RunnerRef)
    await coordinator.registered(report.runner_id)
    await coordinator.worker.do(Store.report_started, request.path_params["run_id"])
    return json_response(OK)


async def completed(request: Request) -> Response:
    coordinator = coordinator_of(request)
    report = convert(await object_of(request), CompletedReport)
    await coordinator.registered(report.runner_id)
    await coordinator.worker.do(Store.report_completed, request.path_params["run_id"], report.session_status)
    return json_response(OK)


async def failed(request: Request) -> Response:
    coordinator = coordinator_of(request)
    report = convert(await object_of(request), FailedReport)
    await coordinator.registered(report.runner_id)
    await coordinator.worker.do(Store.report_failed, request.path_params["run_id"], report.error)
    return json_response(OK)


async def stopped(request: Request) -> Response:
    coordinator = coordinator_of(request)
    report = convert(await object_of(request), StoppedReport)
    await coordinator.registered(report.runner_id)
    await coordinator.worker.do(Store.report_stopped, request.path_params["run_id"], report.signal)
    return json_response(OK)


async def session_ended(request: Request) -> Response:
    coordinator = coordinator_of(request)
    report = convert(await object_of(request), SessionEndReport)
    await coordinator.registered(report.runner_id)
    await coordinator.worker.do(Store.report_session_end, request.path_params["session_id"], report.status)
    return json_response(OK)


async def deregister(request: Request) -> Response:
    coordinator = coordinator_of(request)
    runner_id = request.path_params["runner_id"]
    if request.query_params.get("self", "").lower() in ("true", "1", "yes", "on"):
        await coordinator.deregister_itself(runner_id)
        return json_response({"ok": True, "message": "Runner deregistered", "initiated_by": "self"})
    await coordinator.send_away(runner_id)
    message = "Runner marked for deregistration"
    return json_response({"ok": True, "message": message, "initiated_by": "external"})


async def download_script(request: Request) -> Response:
    coordinator = coordinator_of(request)
    script = coordinator.scripts.get(request.path_params["name"])
    if script is None:
        raise Refusal(404, f"Script not found: {request.path_params['name']}")
    try:
        archive = await coordinator.worker.aside(script.archive)
    except OSError as error:
        raise Refusal(404, f"Script not found: {script.name}: {error.strerror}") from None
    return Response(archive, media_type="application/gzip")


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
