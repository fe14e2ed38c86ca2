"""The coordinator, independent of HTTP: each call of the API is one of its methods."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.agents import AgentCatalog, CatalogAgent
from fsm_runner.coordinator_server.errors import NotFound
from fsm_runner.coordinator_server.event_bus import EventBus, server_sent_event
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.polling import Polls
from fsm_runner.coordinator_server.registry import Registry
from fsm_runner.coordinator_server.runners import Runners
from fsm_runner.coordinator_server.scripts import Script
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.database_errors import DatabaseUnavailable
from fsm_runner.coordinator_server.store.sessions import EventHead, SessionPatch
from fsm_runner.coordinator_server.store.store import StopResult, Store
from fsm_runner.coordinator_server.store.worker import StoreWorker
from fsm_runner.coordinator_server.submission import Submission, schema_of, submit
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.coordinator_server.validation.validator import ParameterValidator
from fsm_runner.protocol.wire import Bind, JsonObject, RunCreated, RunRequest


class Coordinator:
    """Use `open` before anything else, and `aclose` at the end."""

    def __init__(
        self,
        *,
        timings: Timings | None = None,
        agents: Iterable[CatalogAgent] = (),
        scripts: Mapping[str, Script] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timings = timings or Timings()
        self.agents = AgentCatalog(agents)
        self.scripts = dict(scripts or {})
        self.event_bus = EventBus()
        self.worker = StoreWorker(self.event_bus.publish)
        self.validator = ParameterValidator()
        self.registry = Registry(self.timings, clock)
        self.polls = Polls(self.registry, self.worker, self.timings.poll_timeout_s)
        self.runners = Runners(self.registry, self.agents, self.worker, self.timings, list(self.scripts))

    async def open(self, database: Path | None) -> None:
        """Open the database file; None keeps the data in memory. Raises `UsageError`."""
        await self.worker.open(partial(Database, database))

    def end_streams(self) -> None:
        """End held polls and event streams at once."""
        self.polls.close()
        self.event_bus.close()

    async def aclose(self) -> None:
        await self.validator.aclose()
        await self.worker.close()

    async def health_problem(self) -> DatabaseUnavailable | None:
        return await self.worker.check()

    # --- reports: each raises `RunnerNotRegistered`, `NotFound` ---

    async def report_started(self, runner_id: str, run_id: str) -> None:
        await self.runners.registered(runner_id)
        await self.worker.do(Store.report_started, run_id)

    async def report_completed(self, runner_id: str, run_id: str, session_status: str) -> None:
        await self.runners.registered(runner_id)
        await self.worker.do(Store.report_completed, run_id, session_status)

    async def report_failed(self, runner_id: str, run_id: str, error: str) -> None:
        await self.runners.registered(runner_id)
        await self.worker.do(Store.report_failed, run_id, error)

    async def report_stopped(self, runner_id: str, run_id: str, signal: str) -> None:
        await self.runners.registered(runner_id)
        await self.worker.do(Store.report_stopped, run_id, signal)

    async def report_session_end(self, runner_id: str, session_id: str, status: str) -> None:
        """Raises `InvalidRequest` too."""
        await self.runners.registered(runner_id)
        await self.worker.do(Store.report_session_end, session_id, status)

    # --- runs ---

    async def create_run(self, request: RunRequest, additional_demands: Demands) -> RunCreated:
        """Raises `InvalidRequest`, `NotFound`, `Conflict`, `Unavailable`."""
        await self.runners.expire()
        submission = Submission(request, additional_demands, self.agents.by_name, self.scripts)
        schema = await self.worker.do(schema_of, submission)
        if schema is not None:
            await self.validator.validate(schema, request.parameters)
        created = await self.worker.do(submit, submission)
        self.registry.wake_all()
        return created

    async def runs(self, status: str | None) -> list[JsonObject]:
        return await self.worker.do(lambda store: store.runs.all(status))

    async def run(self, run_id: str) -> JsonObject:
        """Raises `NotFound`."""
        return await self.worker.do(lambda store: store.runs.get(run_id))

    async def stop_run(self, run_id: str) -> JsonObject:
        """Raises `InvalidRequest`, `NotFound`."""
        return self._queue_stop(await self.worker.do(Store.stop_run, run_id))

    async def stop_session(self, session_id: str) -> JsonObject:
        """Raises `NotFound`."""
        return self._queue_stop(await self.worker.do(Store.stop_session, session_id))

    def _queue_stop(self, stopped: StopResult) -> JsonObject:
        if stopped.runner_id is not None:
            self.registry.queue_stop(stopped.runner_id, stopped.session_id)
        return stopped.response

    # --- agents and scripts ---

    async def agents_tagged(self, tags: frozenset[str]) -> list[JsonObject]:
        await self.runners.expire()
        return [agent.as_json() for agent in self.agents.tagged(tags)]

    async def agent(self, name: str) -> JsonObject:
        """Raises `NotFound`."""
        await self.runners.expire()
        agent = self.agents.by_name.get(name)
        if agent is None:
            raise NotFound(f"Agent not found: {name}")
        return agent.as_json()

    async def script_archive(self, name: str) -> bytes:
        """Raises `NotFound`, also if the files cannot be read."""
        script = self.scripts.get(name)
        if script is None:
            raise NotFound(f"Script not found: {name}")
        try:
            return await self.worker.read_files(script.archive)
        except OSError as error:
            raise NotFound(f"Script not found: {name}: {error.strerror}") from None

    # --- sessions: those with an id raise `NotFound` ---

    async def sessions(self) -> list[JsonObject]:
        return await self.worker.do(lambda store: store.sessions.all())

    async def session(self, session_id: str) -> JsonObject:
        return await self.worker.do(lambda store: store.sessions.get(session_id))

    async def session_status(self, session_id: str) -> str:
        """Return `not_existent` if there is no such session."""
        session = await self.worker.do(lambda store: store.sessions.find(session_id))
        return "not_existent" if session is None else str(session["status"])

    async def session_result(self, session_id: str) -> JsonObject:
        """Raises `InvalidRequest` too."""
        return await self.worker.do(lambda store: store.sessions.result(session_id))

    async def session_events(self, session_id: str) -> list[msgspec.Raw]:
        return await self.worker.do(lambda store: store.sessions.events(session_id))

    async def add_event(self, session_id: str, event: EventHead, body: bytes) -> None:
        """Raises `InvalidRequest` too."""
        await self.worker.do(Store.add_event, session_id, event, body)

    async def bind_session(self, session_id: str, binding: Bind) -> JsonObject:
        return await self.worker.do(lambda store: store.sessions.bind(session_id, binding))

    async def patch_session(self, session_id: str, patch: SessionPatch) -> JsonObject:
        return await self.worker.do(lambda store: store.sessions.patch(session_id, patch))

    async def delete_session(self, session_id: str) -> JsonObject:
        """Return the numbers of deleted runs and events. Raises `Conflict` too."""
        return await self.worker.do(lambda store: store.sessions.delete(session_id))

    async def event_stream(self, session_id: str | None, *, with_init: bool) -> AsyncIterator[bytes]:
        """Yield server-sent events about one session or all. `with_init` begins with the sessions as they are."""
        with self.event_bus.subscription(session_id) as subscription:
            if with_init:
                try:
                    sessions = [each for each in await self.sessions() if session_id in (None, each["session_id"])]
                except DatabaseUnavailable:  # logged by the worker; the response has begun, so it can only end
                    return
                yield server_sent_event("init", {"sessions": sessions})
            async for text in subscription.texts(self.timings.keep_alive_s):
                yield text
