"""The coordinator, independent of HTTP: its parts, and the calls of the API that concern several of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import msgspec

from fsm_runner.coordinator_server.agents import AgentCatalog, CatalogAgent
from fsm_runner.coordinator_server.approvals import ApprovalDesk
from fsm_runner.coordinator_server.errors import NotFound, RunReassigned, Unavailable
from fsm_runner.coordinator_server.event_bus import EventBus, server_sent_event
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.polling import Polls
from fsm_runner.coordinator_server.registry import Registry
from fsm_runner.coordinator_server.run_queue import RunQueue
from fsm_runner.coordinator_server.runners import Runners
from fsm_runner.coordinator_server.scripts import Script
from fsm_runner.coordinator_server.store.interface import Author, CreatedRun, StopResult, Store
from fsm_runner.coordinator_server.submission import Submission, session_to_resume
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.coordinator_server.validation import ParameterValidator
from fsm_runner.protocol.statuses import HELD_RUN_STATUSES
from fsm_runner.protocol.wire import Bind, JsonObject, RunRequest


class Coordinator:
    """Use `open` before anything else, and `aclose` at the end."""

    def __init__(
        self,
        store: Store,
        event_bus: EventBus,
        timings: Timings,
        agents: Iterable[CatalogAgent],
        scripts: dict[str, Script],
        clock: Callable[[], float],
    ) -> None:
        """`event_bus` gets the changes of the store. `clock` returns the seconds by which runners become stale."""
        self.store = store
        self.event_bus = event_bus
        self.timings = timings
        self.agents = AgentCatalog(agents)
        self.scripts = scripts
        self.validator = ParameterValidator()
        self.registry = Registry(timings, clock)
        self.queue = RunQueue(store, self.agents)
        self.approvals = ApprovalDesk(self.registry, store, timings, clock)
        self.polls = Polls(self.registry, self.agents, self.queue, store, self.approvals, timings.poll_timeout_s)
        self.runners = Runners(self.registry, self.agents, self.queue, store, timings, list(scripts))

    async def open(self) -> None:
        """Open the database. Raises `UsageError`."""
        await self.store.open()
        await self.runners.open()
        await self.approvals.open()
        await self.queue.tick()

    def end_streams(self) -> None:
        """End held polls and event streams at once."""
        self.polls.close()
        self.event_bus.close()

    async def aclose(self) -> None:
        await self.validator.aclose()
        await self.store.aclose()

    async def create_run(self, request: RunRequest, additional_demands: Demands, digest: bytes) -> CreatedRun:
        """Queue a run. `digest` identifies a request with an `idempotency_key` as it was sent.

        Raises `InvalidRequest`, `NotFound`, `Conflict`, `Unavailable`.
        """
        await self.runners.expire()
        key = request.idempotency_key
        if key is not None and (repeated := await self.store.repeated_run(key, digest)) is not None:
            return repeated
        requested = Submission(
            request=request,
            additional_demands=additional_demands,
            digest=digest,
            agents=self.agents.by_name,
            scripts=self.scripts,
        )
        submission = await self._with_session(requested)
        if submission.schema is not None:
            await self.validator.validate(submission.schema, request.parameters)
            submission = await self._with_session(requested)  # it may have changed during the validation
        run = submission.new_run()
        created = await self.store.create_run(run)
        if created.class_id is not None:
            self.queue.add(created.class_id, run.demand_class)
        return created

    async def _with_session(self, requested: Submission) -> Submission:
        session_id = session_to_resume(requested.request)
        if session_id is None:
            return requested
        return requested.resuming(await self.store.session(session_id), await self.store.holding_run(session_id))

    async def stop(self, stopping: Awaitable[StopResult]) -> JsonObject:
        """Stop a run or session, as the store does, and tell its runner. Raises what the store raises."""
        stopped = await stopping
        if stopped.runner_id is not None:
            self.registry.queue_stop(stopped.runner_id, stopped.session_id)
        return stopped.response

    async def bind(self, session_id: str, bind: Bind, author: Author) -> JsonObject:
        """Bind an executor to the session, and return the session. Raises `NotFound`, `Conflict`."""
        if None in (author.registration, author.run_id):
            await self._check_holder(session_id, bind)
        fields = msgspec.to_builtins(bind)
        return await self.store.update_session(session_id, author, **fields, status="running")

    async def _check_holder(self, session_id: str, bind: Bind) -> None:
        """Raise `RunReassigned` if a runner of another host or profile holds the session's run."""
        run = await self.store.holding_run(session_id)
        if run is None or run.status not in HELD_RUN_STATUSES or run.runner_id is None:
            return
        holder = self.registry.get(run.runner_id)
        if holder is not None and (bind.hostname, bind.executor_profile) != (
            holder.capabilities.hostname,
            holder.capabilities.executor_profile,
        ):
            raise RunReassigned(run.run_id, (await self.store.run(run.run_id))["attempt"])

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
            return await asyncio.to_thread(script.archive)
        except OSError as error:
            raise NotFound(f"Script not found: {name}: {error.strerror}") from None

    async def event_stream(self, session_id: str | None, *, with_init: bool) -> AsyncIterator[bytes]:
        """Yield server-sent events about one session or all. `with_init` begins with the sessions as they are."""
        with self.event_bus.subscription(session_id) as subscription:
            if with_init:
                try:
                    listed = await self.store.sessions(None, session_id)
                except Unavailable:  # logged by the store; the response has begun, so it can only end
                    return
                truncated = {"truncated": True} if listed.is_truncated else {}
                yield server_sent_event("init", {"sessions": listed.items, **truncated})
            async for text in subscription.texts(self.timings.keep_alive_s):
                yield text
