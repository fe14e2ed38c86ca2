"""The coordinator itself: its parts, and what needs more than one of them."""

import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from fsm_runner.coordinator_server.errors import Refusal, invalid_field, runner_not_found, runner_not_registered
from fsm_runner.coordinator_server.event_bus import EventHub
from fsm_runner.coordinator_server.http.schemas import convert, without_nulls
from fsm_runner.coordinator_server.polling import Polls
from fsm_runner.coordinator_server.registry import Presence, Registry, Runner
from fsm_runner.coordinator_server.store.agents import AgentCatalog, AgentNameTakenError, CatalogAgent
from fsm_runner.coordinator_server.store.database_errors import DatabaseTrouble
from fsm_runner.coordinator_server.store.ids import runner_id_of
from fsm_runner.coordinator_server.store.matching import Capabilities, demands_from
from fsm_runner.coordinator_server.store.scripts import Script
from fsm_runner.coordinator_server.store.store import StopOrder, Store
from fsm_runner.coordinator_server.store.worker import StoreWorker
from fsm_runner.coordinator_server.submission import Submission, schema_of, submit
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.coordinator_server.validation.validation import ParameterChecks
from fsm_runner.protocol.wire import JsonObject, Registered, Registration, RunCreated, RunRequest

POLL_ENDPOINT = "/runner/runs"
SILENT_FOR_TOO_LONG = "The runner was removed: it sent no heartbeat for too long"


class Coordinator:
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
        self.hub = EventHub()
        self.worker = StoreWorker(self.hub)
        self.checks = ParameterChecks()
        self.registry = Registry(self.timings, clock)
        self._left: dict[str, tuple[Runner, str]] = {}
        """Runners that have left, and why, whose runs and sessions are still open in the database."""
        self.polls = Polls(self.registry, self.worker, self.timings.poll_timeout_s)

    def close(self) -> None:
        """Held polls and event streams end at once."""
        self.polls.close()
        self.hub.close()

    async def expire_runners(self) -> None:
        """Close those that were silent for too long. Called before anything that asks who is registered."""
        expired = self.registry.expire()
        # All are noted before the first is closed: the database may fail at any of them.
        for runner in expired:
            self._note_left(runner, SILENT_FOR_TOO_LONG)
        for runner in expired:
            await self._close_left(runner.runner_id)

    async def registered(self, runner_id: str) -> Runner:
        """Raises a 401 Refusal."""
        await self.expire_runners()
        runner = self.registry.get(runner_id)
        if runner is None:
            raise runner_not_registered()
        return runner

    async def register(self, body: JsonObject) -> JsonObject:
        """Raises a 422 or 409 Refusal."""
        await self.expire_runners()
        registration, executor = _registration(body)
        capabilities = _capabilities(registration)
        known = self.registry.get(capabilities.runner_id)
        if known is not None and not self.registry.may_be_replaced(known):
            raise _duplicate(registration, known.runner_id)
        self._take_agents(capabilities, body.get("agents") or [])
        runner = self.registry.add(capabilities, executor)
        runner.scripts_to_sync = list(self.scripts)
        try:
            await self._restore(runner)
        except DatabaseTrouble:
            runner.stale = True  # it was not told that it is registered, so it registers again
            raise
        answer = Registered(
            runner_id=runner.runner_id,
            poll_timeout_seconds=self.timings.poll_timeout_s,
            heartbeat_interval_seconds=self.timings.heartbeat_interval_s,
        )
        return {**msgspec.structs.asdict(answer), "poll_endpoint": POLL_ENDPOINT}

    async def _restore(self, runner: Runner) -> None:
        """Close what an earlier leave of this runner left open, and give the runner what waits for it."""
        await self._close_left(runner.runner_id)
        if owned := self.agents.owned_by(runner.runner_id):
            await self.worker.do(Store.hand_over, runner.runner_id, owned)
        for session_id in await self.worker.do(_stopping_of, runner.runner_id):
            self.registry.queue_stop(runner.runner_id, session_id)

    async def close_left_runners(self) -> None:
        """Close the runs and sessions of runners that left while the database could not be used."""
        for runner_id in list(self._left):
            await self._close_left(runner_id)

    async def _close_left(self, runner_id: str) -> None:
        left = self._left.get(runner_id)
        if left is None:
            return
        runner, reason = left
        # A claim in progress is undone by its poll first, so that a run which no runner received does not fail.
        async with runner.claiming:
            # Otherwise another call closed it meanwhile, and the runner may have registered and claimed runs since.
            if self._left.get(runner_id) is left:
                await self.worker.do(Store.close_runner, runner_id, reason)
                del self._left[runner_id]

    async def deregister_itself(self, runner_id: str) -> None:
        """The runner leaves: at once, and with what it still holds. Raises a 404 Refusal."""
        runner = await self._known(runner_id)
        self.registry.remove(runner, Presence.DEREGISTERED)
        self._note_left(runner, "The runner deregistered before the run had ended")
        await self._close_left(runner_id)

    async def send_away(self, runner_id: str) -> None:
        """Somebody else wants the runner to leave: its next poll tells it so. Raises a 404 Refusal."""
        runner = await self._known(runner_id)
        runner.presence = Presence.LEAVING
        runner.wake()

    async def create_run(self, body: JsonObject) -> RunCreated:
        """Raises a 4xx Refusal."""
        await self.expire_runners()
        request = convert(body, RunRequest)
        try:
            additional_demands = demands_from(request.additional_demands)
        except msgspec.ValidationError as error:
            raise invalid_field(["body", "additional_demands"], str(error)) from None
        submission = Submission(request, additional_demands, self.agents.by_name, self.scripts)
        schema = await self.worker.do(schema_of, submission)
        if schema is not None:
            await self.checks.refuse_unless_valid(schema, request.parameters)
        created = await self.worker.do(submit, submission)
        self.registry.wake_all()
        return created

    async def stop(self, order: Callable[[Store, str], StopOrder], name: str) -> JsonObject:
        """Stop a run or a session; its runner, if it has one, is told by its next poll. Raises a 4xx Refusal."""
        stopped = await self.worker.do(order, name)
        if stopped.runner_id is not None:
            self.registry.queue_stop(stopped.runner_id, stopped.session_id)
        return stopped.answer

    async def runners(self) -> list[JsonObject]:
        await self.expire_runners()
        return [self._shown(runner) for runner in self.registry]

    def _shown(self, runner: Runner) -> JsonObject:
        offered = runner.capabilities
        return {
            "runner_id": runner.runner_id,
            "status": "stale" if runner.stale else "online",
            "hostname": offered.hostname,
            "project_dir": offered.project_dir,
            "executor_profile": offered.executor_profile,
            "executor": runner.executor,
            "tags": sorted(offered.tags),
            "require_matching_tags": offered.require_matching_tags,
            "registered_at": runner.registered_at,
            "last_heartbeat": runner.heard_at,
            "seconds_since_heartbeat": self.registry.silent_s(runner),
        }

    async def _known(self, runner_id: str) -> Runner:
        await self.expire_runners()
        runner = self.registry.get(runner_id)
        if runner is None:
            raise runner_not_found()
        return runner

    def _note_left(self, runner: Runner, reason: str) -> None:
        self.agents.replace_owned(runner.runner_id, ())
        self._left[runner.runner_id] = (runner, reason)

    def _take_agents(self, capabilities: Capabilities, definitions: list[JsonObject]) -> None:
        try:
            owned = [
                CatalogAgent(each, runner_id=capabilities.runner_id, owner_type=capabilities.executor_type)
                for each in definitions
            ]
        except msgspec.ValidationError as error:
            raise invalid_field(["body", "agents"], str(error)) from None
        try:
            self.agents.replace_owned(capabilities.runner_id, owned)
        except AgentNameTakenError as taken:
            raise _name_collision(taken.agent) from None


def _registration(body: JsonObject) -> tuple[Registration, JsonObject]:
    """The registration, and the executor as it was given."""
    executor = body.get("executor")
    agents = body.get("agents")
    cleaned = {
        **body,
        "executor": without_nulls(executor) if isinstance(executor, dict) else executor,
        "agents": [without_nulls(each) if isinstance(each, dict) else each for each in agents]
        if isinstance(agents, list)
        else agents,
    }
    return convert(cleaned, Registration), executor if isinstance(executor, dict) else {}


def _capabilities(registration: Registration) -> Capabilities:
    hostname, project_dir = registration.hostname, registration.project_dir
    profile, executor = registration.executor_profile, registration.executor
    return Capabilities(
        runner_id=runner_id_of(hostname, project_dir, profile, executor.command),
        hostname=hostname,
        project_dir=project_dir,
        executor_profile=profile,
        executor_type=executor.type,
        tags=frozenset(registration.tags),
        require_matching_tags=registration.require_matching_tags,
    )


def _duplicate(registration: Registration, runner_id: str) -> Refusal:
    identity = {
        "runner_id": runner_id,
        "hostname": registration.hostname,
        "project_dir": registration.project_dir,
        "executor_profile": registration.executor_profile,
    }
    message = f"A runner with this identity is already online: {runner_id}"
    return Refusal(409, {"error": "duplicate_runner", **identity, "message": message})


def _name_collision(agent: CatalogAgent) -> Refusal:
    owner = "a file of the coordinator" if agent.runner_id is None else f"runner {agent.runner_id}"
    return Refusal(
        409,
        {
            "error": "agent_name_collision",
            "agent_name": agent.name,
            "existing_runner_id": agent.runner_id,
            "message": f"An agent named '{agent.name}' is already defined by {owner}",
        },
    )


def _stopping_of(store: Store, runner_id: str) -> list[str]:
    return store.runs.stopping_of(runner_id)
