"""The coordinator as the runner uses it: the calls of `api.py` with their retry policies."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import (
    AgentNameCollision,
    CoordinatorError,
    DuplicateRunner,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RegistrationConflict,
    Unreachable,
)
from fsm_runner.coordinator_client.policy import (
    CONFLICT_LOG_INTERVAL_S,
    POLICIES,
    REMOVED_AFTER_S,
    STALE_AFTER_S,
    STALE_CHECK_INTERVAL_S,
    Policies,
)
from fsm_runner.diagnostics.rare_warning import RareWarning
from fsm_runner.protocol import wire
from fsm_runner.util.retry import Sleep, retrying


class CoordinatorClient:
    """The coordinator of one runner."""

    def __init__(
        self,
        api: CoordinatorApi,
        policies: Policies = POLICIES,
        *,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        on_registration_lost: Callable[[], None] = lambda: None,
        on_unanswered: Callable[[], None] = lambda: None,
        on_answered: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_registration_lost` is called when a report's response is "Runner not registered".

        `on_unanswered` is called for each registration and message that is not answered, `on_answered` for each call
        that is.
        """
        self.api = api
        self.policies = policies
        self.on_registration_lost = on_registration_lost
        self.on_unanswered = on_unanswered
        self.on_answered = on_answered
        self._sleep = sleep
        self._now = now
        self._answered_at_s = now()
        self._back = asyncio.Event()
        self.registrations = 0
        """How often the runner has been taken in. A "not registered" that answers an earlier call says nothing."""
        self._last: wire.Registered | None = None
        self._conflict_warning = RareWarning(CONFLICT_LOG_INTERVAL_S)

    async def register(self, registration: wire.Registration) -> wire.Registered:
        """Register, however long the coordinator is away, and wait out a runner of the same identity or agents.

        An agent that the coordinator has itself is left out: its runs come to every runner that they match.
        Raises `RegistrationConflict` when the other runner does not go away, `Refused` at once.
        """
        return await retrying(
            lambda: self._register_with_own_agents(registration),
            self.policies.registration_conflict,
            (RegistrationConflict,),
            on_wait=self._say_conflict,
            sleep=self._sleep,
        )

    async def _register_with_own_agents(self, registration: wire.Registration) -> wire.Registered:
        agents = registration.agents
        while True:
            try:
                return await self._register_while_away(msgspec.structs.replace(registration, agents=agents))
            except AgentNameCollision as collision:
                own = [agent for agent in agents if agent.name != collision.detail.agent_name]
                if collision.detail.existing_runner_id is not None or len(own) == len(agents):
                    raise
                agents = own
                logger.info("the coordinator has agent {} itself: its definition counts", collision.detail.agent_name)

    async def _register_while_away(self, registration: wire.Registration) -> wire.Registered:
        # Credentials that are no good end a start. Those of a runner that was taken in before may become good again.
        passing = (Unreachable, NotRegistered, NotAuthenticated) if self.registrations else (Unreachable, NotRegistered)
        return await retrying(
            lambda: self._register_once(registration),
            self.policies.register,
            passing,
            on_wait=self._say_away,
            sleep=self._sleep,
        )

    async def _register_once(self, registration: wire.Registration) -> wire.Registered:
        try:
            registered = await self.api.register(registration)
        except DuplicateRunner as duplicate:
            registered = await self._own_registration(duplicate)
        self.registrations += 1
        self._last = registered
        self.note_response()
        self.wake()
        return registered

    async def _own_registration(self, duplicate: DuplicateRunner) -> wire.Registered:
        """What this process has registered itself, where that is the runner that counts as online; else `duplicate`."""
        if self._last is None or duplicate.detail.runner_id != self._last.runner_id:
            raise duplicate
        try:
            await self.api.heartbeat(self._last.runner_id)
        except CoordinatorError:
            raise duplicate from None
        return self._last

    async def look_up_run(self, run_id: str) -> wire.RunState | None:
        """What the coordinator holds of a run, however long it is away; None: it knows no such run."""
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

    @property
    def last_response_at_s(self) -> float:
        """When the coordinator has last answered anything."""
        return self._answered_at_s

    def now_s(self) -> float:
        return self._now()

    def is_silent_for(self, limit_s: float) -> bool:
        """Whether the coordinator has answered nothing for so long."""
        return self._now() - self._answered_at_s >= limit_s

    def note_response(self) -> None:
        """The coordinator has answered something: what fails all the same does so by itself."""
        self._answered_at_s = self._now()
        self.on_answered()

    def wake(self) -> None:
        """The coordinator is back: what waits to be delivered is tried at once."""
        self._back.set()
        self._back = asyncio.Event()

    async def sleep_until_back(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._back.wait()

    async def script_archive(self, name: str) -> bytes:
        """Raises `Refused` with status 404 where there is no such script, `Unreachable` after the policy's limit."""
        return await retrying(
            lambda: self.api.script_archive(name), self.policies.script, (Unreachable,), sleep=self._sleep
        )

    async def deregister(self, runner_id: str) -> None:
        """Leave. A coordinator that does not know the runner any more is left already."""
        try:
            await retrying(
                lambda: self.api.deregister(runner_id), self.policies.deregister, (Unreachable,), sleep=self._sleep
            )
        except (NotRegistered, Refused) as answer:
            logger.debug("deregistration: {}", answer)

    def _say_away(self, fault: Exception, wait_s: float) -> None:
        self.on_unanswered()
        logger.warning("not registered, again in {:.1f} s: {}", wait_s, fault)

    def _say_conflict(self, fault: Exception, _wait_s: float) -> None:
        self.note_response()
        occupied, after_s = "the coordinator counts another runner of this identity as online", STALE_AFTER_S
        if isinstance(fault, AgentNameCollision):
            occupied, after_s = "another runner has registered an agent of the same name", REMOVED_AFTER_S
        self._conflict_warning.log(
            "not registered: {}. If that runner has ended, the coordinator forgets it {:.0f} to {:.0f} s after its "
            "last heartbeat; trying again every few seconds ({})",
            occupied,
            after_s,
            after_s + STALE_CHECK_INTERVAL_S,
            fault,
        )
