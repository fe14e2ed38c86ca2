"""The coordinator as the runner uses it: the calls of `api.py` with their retry policies."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from loguru import logger

from fsm_runner.coordinator import wire
from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.coordinator.faults import (
    CoordinatorError,
    DuplicateRunner,
    NotAuthenticated,
    NotRegistered,
    Refused,
    Unreachable,
)
from fsm_runner.coordinator.policy import POLICIES, Policies
from fsm_runner.coordinator.transport import Answer
from fsm_runner.retry import Sleep, retrying

LOUD_FAILURE = 4
"""The failure of one message of which the log warns: fewer pass by themselves within a second or so."""


class CoordinatorClient:
    """One coordinator, one runner. `on_registration_lost` is told when an answer says "Runner not registered"."""

    def __init__(
        self,
        api: CoordinatorApi,
        policies: Policies = POLICIES,
        *,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        on_registration_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.api = api
        self.policies = policies
        self.on_registration_lost = on_registration_lost
        self._sleep = sleep
        self._now = now
        self._answered_at_s = now()
        self._back = asyncio.Event()
        self.registrations = 0
        """How often the runner has been taken in. A "not registered" that answers an earlier call says nothing."""
        self._last: wire.Registered | None = None

    async def register(self, registration: wire.Registration) -> wire.Registered:
        """Register, however long the coordinator is away, and wait out an earlier runner of the same identity.

        Raises `DuplicateRunner` when that one does not go away, `AgentNameCollision` and `Refused` at once.
        """
        return await retrying(
            lambda: self._register_while_away(registration),
            self.policies.duplicate_runner,
            (DuplicateRunner,),
            on_wait=self._say_duplicate,
            sleep=self._sleep,
        )

    async def _register_while_away(self, registration: wire.Registration) -> wire.Registered:
        return await retrying(
            lambda: self._register_once(registration),
            self.policies.register,
            (Unreachable, NotRegistered),
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
        self.wake()
        return registered

    async def _own_registration(self, duplicate: DuplicateRunner) -> wire.Registered:
        """What this process has registered itself, where that is the runner that counts as online; else `duplicate`."""
        if self._last is None or duplicate.conflict.runner_id != self._last.runner_id:
            raise duplicate
        try:
            await self.api.heartbeat(self._last.runner_id)
        except CoordinatorError:
            raise duplicate from None
        return self._last

    async def deliver(self, path: str, body: bytes, method: str = "POST", patience_s: float | None = None) -> Answer:
        """Send until it is acknowledged. Raises `Refused` when the coordinator will never take it.

        A lost registration and missing credentials pass, so they are waited out like an outage. `patience_s`: for so
        long it is tried while the coordinator takes other calls; None: for ever.
        """

        failures = 0
        failing_since_s: float | None = None

        async def attempt() -> Answer:
            nonlocal failing_since_s
            known_as = self.registrations
            try:
                answer = await self.api.deliver(path, body, method)
            except NotRegistered:
                if known_as == self.registrations:
                    self.on_registration_lost()
                raise
            except (Unreachable, NotAuthenticated) as fault:
                failing_since_s = self._now() if failing_since_s is None else failing_since_s
                if patience_s is not None and self._answered_at_s - failing_since_s >= patience_s:
                    raise Refused(
                        f"given up, since it alone has not been taken for {patience_s:g} s: {fault}", 0
                    ) from fault
                raise
            self.note_answer()
            return answer

        def say_undelivered(fault: Exception, wait_s: float) -> None:
            nonlocal failures
            failures += 1
            level = "WARNING" if failures == LOUD_FAILURE else "DEBUG"
            logger.log(level, "{} {} is not delivered, and tried until it is ({})", method, path, fault)

        return await retrying(
            attempt,
            self.policies.delivery,
            (Unreachable, NotRegistered, NotAuthenticated),
            on_wait=say_undelivered,
            sleep=self._sleep_until_back,
        )

    def note_answer(self) -> None:
        """The coordinator has answered something: what fails all the same does so by itself."""
        self._answered_at_s = self._now()

    def wake(self) -> None:
        """The coordinator is back: what waits to be delivered is tried at once."""
        self._back.set()
        self._back = asyncio.Event()

    async def _sleep_until_back(self, wait_s: float) -> None:
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
        logger.warning("not registered, again in {:.1f} s: {}", wait_s, fault)

    def _say_duplicate(self, fault: Exception, wait_s: float) -> None:
        logger.warning(
            "the coordinator still holds an earlier runner of this identity for online; "
            "it lets go within {:.0f} s of that one's last heartbeat; trying again in {:.1f} s ({})",
            self.policies.duplicate_runner.limit_s or 0,
            wait_s,
            fault,
        )
