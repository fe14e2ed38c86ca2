"""The runner's registration at the coordinator."""

import asyncio
from collections.abc import Callable

from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.protocol import wire


class Registrar:
    """Registers the runner, one attempt at a time. `aclose` cancels an attempt in progress.

    An attempt may outlive the state that began it: the coordinator may have carried it out already, and then the
    runner has to deregister when it leaves.
    """

    def __init__(
        self,
        client: CoordinatorClient,
        registration: wire.Registration,
        on_registered: Callable[[wire.Registered], None],
    ) -> None:
        """`on_registered` is called for each attempt that succeeds, even if its caller no longer waits."""
        self._client = client
        self._on_registered = on_registered
        self._registration = registration
        self._attempt: asyncio.Task[wire.Registered] | None = None
        self.runner_id: str | None = None
        """The runner's id by the latest attempt; None if that failed or is in progress."""
        self._was_registered = asyncio.Event()

    async def register(self) -> None:
        """Begin an attempt and wait for it. A cancelled wait leaves the attempt in progress.

        Raises what `CoordinatorClient.register` raises.
        """
        await asyncio.shield(self._begin())

    def register_in_background(self) -> None:
        """Begin an attempt unless one is in progress."""
        if self._attempt is None or self._attempt.done():
            self._begin()

    async def wait_for_registration(self) -> None:
        """Wait until an attempt has succeeded for the first time."""
        await self._was_registered.wait()

    async def wait_for_attempt(self, limit_s: float) -> None:
        """Wait at most `limit_s` for an attempt that is in progress."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt], timeout=limit_s)

    async def aclose(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])

    def _begin(self) -> "asyncio.Task[wire.Registered]":
        if self._attempt is not None:
            self._attempt.cancel()
        self.runner_id = None
        self._attempt = asyncio.create_task(self._client.register(self._registration), name="registration")
        self._attempt.add_done_callback(self._end)
        return self._attempt

    def _end(self, attempt: "asyncio.Task[wire.Registered]") -> None:
        if not attempt.cancelled() and attempt.exception() is None:
            self.runner_id = attempt.result().runner_id
            logger.info("registered at {} as {}", self._client.api.url, self.runner_id)
            self._on_registered(attempt.result())
            self._was_registered.set()
