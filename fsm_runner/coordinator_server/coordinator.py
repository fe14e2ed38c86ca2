"""The coordinator, independent of HTTP: its parts, and the calls of the API that concern several of them."""

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path

from fsm_runner.coordinator_server.agents import AgentCatalog, CatalogAgent
from fsm_runner.coordinator_server.approvals import ApprovalDesk
from fsm_runner.coordinator_server.errors import NotFound
from fsm_runner.coordinator_server.event_bus import EventBus, server_sent_event
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.polling import Polls
from fsm_runner.coordinator_server.registry import Registry
from fsm_runner.coordinator_server.runners import Runners
from fsm_runner.coordinator_server.scripts import Script
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.database_errors import DatabaseUnavailable
from fsm_runner.coordinator_server.store.store import StopResult, Store
from fsm_runner.coordinator_server.store.worker import StoreWorker
from fsm_runner.coordinator_server.submission import Submission, schema_of, submit
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.coordinator_server.validation import ParameterValidator
from fsm_runner.protocol.wire import JsonObject, RunCreated, RunRequest


class Coordinator:
    """Use `open` before anything else, and `aclose` at the end."""

    def __init__(
        self, timings: Timings, agents: Iterable[CatalogAgent], scripts: dict[str, Script], clock: Callable[[], float]
    ) -> None:
        """`clock` returns the seconds by which runners become stale."""
        self.timings = timings
        self.agents = AgentCatalog(agents)
        self.scripts = scripts
        self.event_bus = EventBus()
        self.worker = StoreWorker(self.event_bus.publish)
        self.validator = ParameterValidator()
        self.registry = Registry(timings, clock)
        self.approvals = ApprovalDesk(self.registry, self.worker, timings, clock)
        self.polls = Polls(self.registry, self.worker, self.approvals, timings.poll_timeout_s)
        self.runners = Runners(self.registry, self.agents, self.worker, timings, list(scripts))

    async def open(self, database: Path | None) -> None:
        """Open the database file; None keeps the data in memory. Raises `UsageError`."""
        await self.worker.open(partial(Database, database))
        await self.approvals.open()

    def end_streams(self) -> None:
        """End held polls and event streams at once."""
        self.polls.close()
        self.event_bus.close()

    async def aclose(self) -> None:
        await self.validator.aclose()
        await self.worker.close()

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

    async def stop(self, stop: Callable[[Store, str], StopResult], run_or_session_id: str) -> JsonObject:
        """Stop a run or session. Raises `NotFound`, and `InvalidRequest` if the run is stopping or has ended."""
        stopped = await self.worker.do(stop, run_or_session_id)
        if stopped.runner_id is not None:
            self.registry.queue_stop(stopped.runner_id, stopped.session_id)
        return stopped.response

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
            return await self.worker.in_thread(script.archive)
        except OSError as error:
            raise NotFound(f"Script not found: {name}: {error.strerror}") from None

    async def event_stream(self, session_id: str | None, *, with_init: bool) -> AsyncIterator[bytes]:
        """Yield server-sent events about one session or all. `with_init` begins with the sessions as they are."""
        with self.event_bus.subscription(session_id) as subscription:
            if with_init:
                try:
                    sessions = await self.worker.do(lambda store: store.sessions.all())
                except DatabaseUnavailable:  # logged by the worker; the response has begun, so it can only end
                    return
                yield server_sent_event(
                    "init", {"sessions": [each for each in sessions if session_id in (None, each["session_id"])]}
                )
            async for text in subscription.texts(self.timings.keep_alive_s):
                yield text
