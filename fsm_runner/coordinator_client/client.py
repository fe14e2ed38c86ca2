"""The runner's calls to the coordinator: those of `api.py`, retried according to `policy.py`."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
from loguru import logger

from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import (
    AgentNameCollision,
    CoordinatorError,
    DuplicateRunner,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RegistrationConflict,
    RegistrationSuperseded,
    Unreachable,
)
from fsm_runner.diagnostics.logs import RareWarning
from fsm_runner.protocol import wire
from fsm_runner.util.retry import Sleep, retrying


class CoordinatorClient:
    """The coordinator of one runner."""

    def __init__(
        self,
        api: CoordinatorApi,
        policies: policy.Policies = policy.POLICIES,
        *,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        on_registration_lost: Callable[[], None] = lambda: None,
        on_unanswered: Callable[[], None] = lambda: None,
        on_answered: Callable[[], None] = lambda: None,
        on_superseded: Callable[[RegistrationSuperseded], None] = lambda _: None,
    ) -> None:
        """`on_registration_lost` is called when a report's response is "Runner not registered", `on_unanswered` for
        each registration and message that is not answered, `on_answered` for each call that is, and `on_superseded` if
        another process has registered under this runner's identity.
        """
        self.api = api
        self.policies = policies
        self.on_registration_lost = on_registration_lost
        self.on_unanswered = on_unanswered
        self.on_answered = on_answered
        self.on_superseded = on_superseded
        self.now_s = now
        self._sleep = sleep
        self.last_response_at_s = now()
        """When the coordinator answered a call, on the clock of `now_s`."""
        self._back = asyncio.Event()
        self.registrations = 0
        """The number of successful registrations. A "not registered" response to a call before the last one is void."""
        self._registered: wire.Registered | None = None
        self._conflict_warning = RareWarning(policy.REGISTRATION_LOG_INTERVAL_S)
        self._unregistered_warning = RareWarning(policy.REGISTRATION_LOG_INTERVAL_S)

    async def register(self, registration: wire.Registration) -> wire.Registered:
        """Register. Retry while the coordinator is unreachable or counts another runner of this identity as online.

        An agent that the coordinator defines itself is left out: its runs go to every runner that meets their demands.
        Raises `RegistrationConflict` at the limit of its policy, and `Refused` at once.
        """
        return await retrying(
            lambda: self._register_accepted_agents(registration),
            self.policies.registration_conflict,
            (RegistrationConflict,),
            on_wait=self._log_conflict,
            sleep=self._sleep,
        )

    async def _register_accepted_agents(self, registration: wire.Registration) -> wire.Registered:
        agents = registration.agents
        while True:
            try:
                return await self._register_when_reachable(msgspec.structs.replace(registration, agents=agents))
            except AgentNameCollision as collision:
                name = collision.detail.agent_name
                accepted = [agent for agent in agents if agent.name != name]
                if collision.detail.existing_runner_id is not None or len(accepted) == len(agents):
                    raise
                agents = accepted
                logger.info("the coordinator defines agent {} itself, so this runner does not register it", name)

    async def _register_when_reachable(self, registration: wire.Registration) -> wire.Registered:
        # Rejected credentials end a start. Later they may become valid again.
        retried = (Unreachable, NotRegistered, NotAuthenticated) if self.registrations else (Unreachable, NotRegistered)
        return await retrying(
            lambda: self._register_once(registration),
            self.policies.register,
            retried,
            on_wait=self._log_unregistered,
            sleep=self._sleep,
        )

    async def _register_once(self, registration: wire.Registration) -> wire.Registered:
        try:
            registered = await self.api.register(registration)
        except DuplicateRunner as duplicate:
            registered = await self._own_registration(duplicate)
        self.registrations += 1
        self._registered = registered
        self.note_response()
        self.wake()
        return registered

    async def _own_registration(self, duplicate: DuplicateRunner) -> wire.Registered:
        """Return this process's own registration if it is the duplicate. Raises `duplicate` otherwise."""
        if self._registered is None or duplicate.detail.runner_id != self._registered.runner_id:
            raise duplicate
        try:
            await self.api.heartbeat(self._registered.runner_id)
        except RegistrationSuperseded as fault:
            self.on_superseded(fault)
            raise duplicate from None
        except CoordinatorError:
            raise duplicate from None
        return self._registered

    async def look_up_run(self, run_id: str) -> wire.RunState | None:
        """Return the coordinator's state of a run, retrying during an outage; None: it does not know the run."""
        try:
            return await retrying(
                lambda: self.api.run_state(run_id),
                self.policies.delivery,
                (Unreachable, NotRegistered, NotAuthenticated),
                sleep=self.sleep_until_back,
            )
        except Refused as refusal:
            logger.debug("{}: {}", run_id, refusal)
            return None

    def is_silent_for(self, limit_s: float) -> bool:
        return self.now_s() - self.last_response_at_s >= limit_s

    def note_response(self) -> None:
        """Record that the coordinator answered a call. Calls that fail meanwhile fail for a reason of their own."""
        self.last_response_at_s = self.now_s()
        self.on_answered()

    def wake(self) -> None:
        """End all `sleep_until_back`: the coordinator is reachable again."""
        self._back.set()
        self._back = asyncio.Event()

    async def sleep_until_back(self, wait_s: float) -> None:
        """Wait for `wait_s`, or until `wake` is called."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._back.wait()

    async def script_archive(self, name: str) -> bytes:
        """Raises `Refused` with status 404 if there is no such script, `Unreachable` at the limit of the policy."""
        return await retrying(
            lambda: self.api.script_archive(name), self.policies.script, (Unreachable,), sleep=self._sleep
        )

    async def deregister(self, runner_id: str) -> None:
        """Deregister. Return also if the coordinator does not know the runner any more."""
        try:
            await retrying(
                lambda: self.api.deregister(runner_id), self.policies.deregister, (Unreachable,), sleep=self._sleep
            )
        except (NotRegistered, Refused) as error:
            logger.debug("{}: deregistration: {}", runner_id, error)

    def _log_unregistered(self, fault: Exception, wait_s: float) -> None:
        self.on_unanswered()
        self._unregistered_warning.log("registration failed, retrying in {:.1f} s: {}", wait_s, fault)

    def _log_conflict(self, fault: Exception, _wait_s: float) -> None:
        self.note_response()
        reason, after_s = "the coordinator counts another runner of this identity as online", policy.STALE_AFTER_S
        if isinstance(fault, AgentNameCollision):
            reason, after_s = "another runner has registered an agent of the same name", policy.REMOVED_AFTER_S
        self._conflict_warning.log(
            "not registered: {}. If that runner has ended, the coordinator forgets it {:.0f} to {:.0f} s after its "
            "last heartbeat; retrying every few seconds ({})",
            reason,
            after_s,
            after_s + policy.STALE_CHECK_INTERVAL_S,
            fault,
        )
