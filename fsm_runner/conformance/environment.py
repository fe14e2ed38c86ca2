"""The environment of all cases: a coordinator in memory, the real gateway in front of it, and a project directory."""

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from fsm_runner.conformance.gateway import RecordingGateway
from fsm_runner.conformance.target import Target
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.wire import JsonObject, Run, RunRequest
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.util.retry import retrying

SESSION_PARAMETERS: JsonObject = {"prompt": "conformance"}
"""The coordinator requires a prompt of runs without an agent. The executor gets the parameters of the check instead."""
UNNAMED_PROFILE = "conformance"


class ConformanceEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    target: Target
    parameters: JsonObject
    limited_parameters: JsonObject | None
    """The parameters with which the executor reports a limit of its provider. None: unknown."""
    project_dir: Path
    timeout_s: float
    """The time limit of one case."""
    api: CoordinatorApi
    gateway: RecordingGateway
    reporting: ReportingContext

    async def start_run(self) -> Run:
        """Return a run of a new session."""
        return await self._run(
            RunRequest(type="start_session", parameters=SESSION_PARAMETERS, project_dir=str(self.project_dir))
        )

    async def resume_run(self, session_id: str) -> Run:
        return await self._run(RunRequest(type="resume_session", session_id=session_id, parameters=SESSION_PARAMETERS))

    async def _run(self, request: RunRequest) -> Run:
        # The coordinator may close an idle connection while a case waits. A repeated request only adds a run.
        run = await retrying(lambda: self._create_run(request), POLICIES.look_up, (Unreachable,))
        return msgspec.structs.replace(run, parameters=self.parameters)

    async def _create_run(self, request: RunRequest) -> Run:
        return await self.api.run((await self.api.create_run(request)).run_id)


@asynccontextmanager
async def open_environment(
    target: Target, parameters: JsonObject, timeout_s: float, limited_parameters: JsonObject | None = None
) -> AsyncIterator[ConformanceEnvironment]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="executor-check-", ignore_cleanup_errors=True))
        server = await stack.enter_async_context(CoordinatorServer(port=0))
        api = await stack.enter_async_context(CoordinatorApi(server.url))
        outbox = Outbox(MessageSender(CoordinatorClient(api)), NoMessageStore())
        stack.push_async_callback(outbox.aclose)
        gateway = RecordingGateway(api)
        await stack.enter_async_context(gateway)
        yield ConformanceEnvironment(
            target=target,
            parameters=parameters,
            limited_parameters=limited_parameters,
            project_dir=Path(folder),
            timeout_s=timeout_s,
            api=api,
            gateway=gateway,
            reporting=ReportingContext(
                outbox=outbox,
                clock=EventClock(),
                hostname=socket.gethostname(),
                executor_profile=target.profile or UNNAMED_PROFILE,
            ),
        )
