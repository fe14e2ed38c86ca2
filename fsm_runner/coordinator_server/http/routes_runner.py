"""The runner's calls: protocol.md, section 1.1."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.http.requests import (
    attempt_of,
    body_as,
    coordinator_of,
    object_of,
    registration_of,
    required_query,
)
from fsm_runner.coordinator_server.http.schemas import (
    CompletedReport,
    FailedReport,
    SessionEndReport,
    StoppedReport,
    registration_request_of,
)
from fsm_runner.coordinator_server.registry import Runner, WaitingPoll
from fsm_runner.coordinator_server.store.interface import Reporter, RunRow, Store
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.wire import RunnerRef
from fsm_runner.util.tasks import background_task

Report = TypeVar("Report", bound=RunnerRef)

TURNS_UNTIL_NOTICED = 3
"""Turns of the event loop from reading the end of a connection to the end of `_wait_disconnect`: the transport closes,
the protocol gets `connection_lost`, the task wakes up."""


class HeldPoll(Response):
    """Waits for its content, and sends it in the turn of the event loop in which it gets it."""

    def __init__(self, coordinator: Coordinator, runner: Runner, registration: int | None) -> None:
        super().__init__(status_code=204)
        self._coordinator = coordinator
        self._runner = runner
        self._registration = registration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        polls = self._coordinator.polls
        with self._runner.held_poll(self._registration) as poll:
            async with background_task(_wait_disconnect(receive, poll), "coordinator-disconnect") as disconnect:

                async def is_disconnected() -> bool:
                    # Without a known end of the connection, a response that is sent without another await reaches it.
                    for _ in range(TURNS_UNTIL_NOTICED):
                        await asyncio.sleep(0)
                    return disconnect.done()

                answer = await polls.hold(poll, is_disconnected)
                if disconnect.done():
                    self._coordinator.registry.record_lost_poll(self._runner)
                response = Response(status_code=204) if answer is None else json_response(answer.content)
                await response(scope, receive, send)
                if answer is not None:
                    await polls.note_written(poll, answer, is_lost=disconnect.done())


async def _wait_disconnect(receive: Receive, poll: WaitingPoll) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    poll.wake()


def recording(
    form: type[Report], record: Callable[[Store, str, Reporter, Report], Awaitable[RunRow | None]]
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that passes the id in its path, and the report of a registered runner, to `record`.

    `record` returns the run if the report ends it.
    """

    async def endpoint(request: Request) -> Response:
        report = await body_as(request, form)
        coordinator, (run_or_session_id,) = coordinator_of(request), request.path_params.values()
        registration, attempt = registration_of(request), attempt_of(request)
        await coordinator.runners.registered(report.runner_id, registration)
        reporter = Reporter(runner_id=report.runner_id, registration=registration, attempt=attempt)
        ended = await record(coordinator.store, run_or_session_id, reporter, report)
        if ended is not None:
            coordinator.queue.note_end(ended)
        return ok()

    return endpoint


started = recording(RunnerRef, lambda store, run_id, by, _: store.report_started(run_id, by))
completed = recording(
    CompletedReport, lambda store, run_id, by, sent: store.report_completed(run_id, by, sent.session_status)
)
failed = recording(FailedReport, lambda store, run_id, by, sent: store.report_failed(run_id, by, sent.error))
stopped = recording(StoppedReport, lambda store, run_id, by, sent: store.report_stopped(run_id, by, sent.signal))
session_ended = recording(
    SessionEndReport, lambda store, session_id, by, sent: store.report_session_end(session_id, by, sent.status)
)


async def health(request: Request) -> Response:
    problem = await coordinator_of(request).store.check()
    if problem is not None:
        return json_response({"status": "unhealthy", "detail": problem.detail}, 503)
    return json_response({"status": "healthy"})


async def register(request: Request) -> Response:
    runners, registration = coordinator_of(request).runners, registration_request_of(await object_of(request))
    return json_response(await runners.register(registration, registration_of(request)))


async def poll(request: Request) -> Response:
    coordinator, registration = coordinator_of(request), registration_of(request)
    runner = await coordinator.runners.registered(required_query(request, "runner_id"), registration)
    return HeldPoll(coordinator, runner, registration)


async def heartbeat(request: Request) -> Response:
    body = await body_as(request, RunnerRef)
    await coordinator_of(request).runners.record_heartbeat(body.runner_id, registration_of(request))
    return ok()


async def deregister(request: Request) -> Response:
    runners, runner_id = coordinator_of(request).runners, request.path_params["runner_id"]
    if request.query_params.get("self", "").lower() in ("true", "1", "yes", "on"):
        await runners.deregister(runner_id, registration_of(request))
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
