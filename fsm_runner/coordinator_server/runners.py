"""Registration of runners, and the closing of their runs when they leave (protocol.md, section 1.1)."""

import msgspec

from fsm_runner.coordinator_server.agents import AgentCatalog, CatalogAgent
from fsm_runner.coordinator_server.errors import (
    Conflict,
    NotFound,
    RegistrationSuperseded,
    RequestError,
    RunnerNotRegistered,
    Unavailable,
)
from fsm_runner.coordinator_server.matching import Capabilities
from fsm_runner.coordinator_server.registry import Presence, Registry, Runner
from fsm_runner.coordinator_server.run_queue import RunQueue
from fsm_runner.coordinator_server.store.interface import Store
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import JsonObject, Registered


class RegistrationRequest(msgspec.Struct, frozen=True):
    capabilities: Capabilities
    executor: JsonObject
    """The executor as the runner sent it."""
    agents: list[CatalogAgent]


class Departure(msgspec.Struct, frozen=True, eq=False):
    reason: str
    may_return: bool
    """Whether the runner was removed for its silence, so it may still have the executors of its runs."""


class Runners:
    """Registers runners, and closes their runs and sessions in the database when they leave."""

    def __init__(
        self,
        registry: Registry,
        agents: AgentCatalog,
        queue: RunQueue,
        store: Store,
        timings: Timings,
        scripts: list[str],
    ) -> None:
        """`scripts` are the names that a runner has to sync after its registration."""
        self._registry = registry
        self._agents = agents
        self._queue = queue
        self._store = store
        self._timings = timings
        self._scripts = scripts
        self._departed: dict[str, Departure] = {}
        """Runners that have left, while the database still has open runs and sessions of them."""

    async def open(self) -> None:
        """Wait for the runners that an earlier process of the coordinator knew."""
        self._registry.wait_for(await self._store.holders())

    async def registered(
        self, runner_id: str, registration: int | None = None, otherwise: RequestError | None = None
    ) -> Runner:
        """Return the runner.

        Raises `otherwise`, by default `RunnerNotRegistered`, if it is not registered; and `RegistrationSuperseded` if
        `registration`, the number that came with the call, is not that of its latest registration.
        """
        await self.expire()
        if (runner := self._registry.get(runner_id)) is None:
            raise otherwise or RunnerNotRegistered()
        if registration not in (None, runner.registration):
            raise RegistrationSuperseded(runner_id)
        return runner

    async def listed(self) -> list[JsonObject]:
        await self.expire()
        return [self._runner_json(runner) for runner in self._registry]

    async def register(self, request: RegistrationRequest, over: int | None = None) -> JsonObject:
        """`over`: the number of the process's earlier registration; None: it has none.

        Raises `Conflict` if another process of the runner is online, or if another owner has an agent of the same name.
        """
        await self.expire()
        runner = await self._registered_anew(request, over)
        runner.scripts_to_sync = list(self._scripts)
        try:
            await self._restore(runner)
        except Unavailable:
            runner.is_stale = True  # it gets an error, so it will register again
            raise
        response = Registered(
            runner_id=runner.runner_id,
            poll_timeout_seconds=self._timings.poll_timeout_s,
            heartbeat_interval_seconds=self._timings.heartbeat_interval_s,
            registration=runner.registration,
        )
        return {**msgspec.structs.asdict(response), "poll_endpoint": "/runner/runs"}

    async def _registered_anew(self, request: RegistrationRequest, over: int | None) -> Runner:
        runner_id = request.capabilities.runner_id
        async with self._registry.claim_lock(runner_id):
            self._check_identity(request.capabilities, over)
            self._agents.replace_owned(runner_id, request.agents)
            try:
                registration = await self._store.new_registration(runner_id)
            except Unavailable:
                if self._registry.get(runner_id) is None:
                    self._agents.replace_owned(runner_id, ())
                raise
            return self._registry.add(request.capabilities, request.executor, registration, over)

    def _check_identity(self, capabilities: Capabilities, over: int | None) -> None:
        """Raise `Conflict` if another process of the runner is online."""
        known = self._registry.get(capabilities.runner_id)
        if known is not None and not self._registry.may_be_replaced(known, over):
            identity = ("runner_id", "hostname", "project_dir", "executor_profile")
            detail = {name: getattr(capabilities, name) for name in identity}
            message = f"A runner with this identity is already online: {known.runner_id}"
            raise Conflict({"error": "duplicate_runner", **detail, "message": message})

    async def _restore(self, runner: Runner) -> None:
        """Close what an earlier departure of this runner left open, and queue what waits for the runner."""
        await self._close_departed(runner.runner_id)
        for session_id in await self._store.stopping_sessions(runner.runner_id):
            self._registry.queue_stop(runner.runner_id, session_id)

    async def record_heartbeat(self, runner_id: str, registration: int | None) -> None:
        self._registry.record_heartbeat(await self.registered(runner_id, registration))

    async def deregister(self, runner_id: str, registration: int | None) -> None:
        """Remove a runner that leaves, and close its runs and sessions. Raises `NotFound`."""
        runner = await self.registered(runner_id, registration, NotFound("Runner not found"))
        self._registry.remove(runner, Presence.DEREGISTERED)
        self._mark_departed(runner_id, Departure("The runner deregistered before the run had ended", may_return=False))
        await self._close_departed(runner_id)

    async def request_deregistration(self, runner_id: str) -> None:
        """Report the deregistration to the runner with its next poll. Raises `NotFound`."""
        runner = await self.registered(runner_id, otherwise=NotFound("Runner not found"))
        runner.presence = Presence.LEAVING
        runner.wake()

    async def expire(self) -> None:
        """Remove the runners that were silent for too long. Every method that reads the registry calls this first."""
        expired = self._registry.expire()
        # Closing may fail for any of them with the database, so all are marked first.
        for runner_id in expired:
            self._mark_departed(
                runner_id, Departure("The runner was removed: it sent no heartbeat for too long", may_return=True)
            )
        for runner_id in expired:
            await self._close_departed(runner_id)

    async def close_departed(self) -> None:
        """Close the runs and sessions of runners that left while the database was unavailable."""
        for runner_id in list(self._departed):
            await self._close_departed(runner_id)

    async def _close_departed(self, runner_id: str) -> None:
        departed = self._departed.get(runner_id)
        if departed is None:
            return
        # The poll of a claim in progress first releases its run, so that a run which no runner received does not fail.
        async with self._registry.claim_lock(runner_id):
            # Otherwise another call has closed it, and the runner may have registered and claimed runs since.
            if self._departed.get(runner_id) is departed:
                session_ids = await self._queue.close_runner(runner_id, departed.reason)
                del self._departed[runner_id]
                for session_id in session_ids if departed.may_return else ():
                    self._registry.queue_stop(runner_id, session_id)  # in case the runner comes back

    def _mark_departed(self, runner_id: str, departure: Departure) -> None:
        self._agents.replace_owned(runner_id, ())
        self._departed[runner_id] = departure

    def _runner_json(self, runner: Runner) -> JsonObject:
        offered = msgspec.structs.asdict(runner.capabilities)
        del offered["executor_type"], offered["owned_agents"]
        return {
            **offered,
            "status": "stale" if runner.is_stale else "online",
            "executor": runner.executor,
            "tags": sorted(offered["tags"]),
            "registered_at": runner.registered_at,
            "last_heartbeat": runner.last_heartbeat,
            "seconds_since_heartbeat": self._registry.seconds_since_heartbeat(runner),
        }
