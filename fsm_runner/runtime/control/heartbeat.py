"""Sends the runner's heartbeats, and interprets failed control calls."""

import asyncio
from collections.abc import Callable

from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, NotRegistered, RegistrationSuperseded
from fsm_runner.coordinator_client.policy import HEARTBEAT_MIN_S, STALE_AFTER_S
from fsm_runner.protocol import wire
from fsm_runner.util.retry import Waits

Post = Callable[[str, object], None]
"""Posts an event to the runner, with its reason."""


class Heartbeat:
    """Sends a heartbeat at the shorter of the runner's own interval and the one that the registration names."""

    def __init__(self, client: CoordinatorClient, post: Post, interval_s: float) -> None:
        self._client = client
        self._post = post
        self._interval_s = interval_s
        self._registered: wire.Registered | None = None
        self._was_registered = asyncio.Event()
        self._last_at_s = 0.0
        """By the client's clock, since the coordinator's time continues while this process is stopped."""
        self._waits = Waits(client.policies.heartbeat)

    def set_registration(self, registered: wire.Registered) -> None:
        self._registered = registered
        self._last_at_s = self._client.now_s()
        self._was_registered.set()

    async def run(self) -> None:
        """Send heartbeats from the first registration on, until cancelled."""
        await self._was_registered.wait()
        while self._registered is not None:
            interval_s = min(self._interval_s, self._registered.heartbeat_interval_seconds)
            await asyncio.sleep(max(HEARTBEAT_MIN_S, interval_s))
            if not await self.send():
                await asyncio.sleep(self._waits.next_s())

    async def send(self) -> bool:
        """Send a heartbeat now. Return whether the coordinator answered, be it that it does not know this runner."""
        if self._registered is None:
            return False
        known_as = self._client.registrations
        try:
            await self._client.api.heartbeat(self._registered.runner_id)
        except CoordinatorError as fault:
            self.report_fault("heartbeat", fault, known_as)
            return isinstance(fault, NotRegistered | RegistrationSuperseded)
        self._client.note_response()
        self._waits.reset()
        silent_s = self._client.now_s() - self._last_at_s
        self._last_at_s = self._client.now_s()
        if silent_s > STALE_AFTER_S:
            self._post("registration_lost", f"no heartbeat for {silent_s:.0f} s, so the runner counts as stale")
        else:
            self._post("coordinator_answered", "heartbeat")
        return True

    def report_fault(self, call: str, fault: CoordinatorError, known_as: int) -> None:
        """Post what a failed call means. `known_as` is the client's count of registrations when the call was sent."""
        logger.debug("{}: {}", call, fault)
        if isinstance(fault, RegistrationSuperseded):
            self._client.on_superseded(fault)
        elif not isinstance(fault, NotRegistered):
            self._client.on_unanswered()
            self._post("coordinator_lost", fault)
        elif known_as == self._client.registrations:
            self._post("registration_lost", fault)
