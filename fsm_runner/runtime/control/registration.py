"""The runner's registration at the coordinator."""

import asyncio
import contextlib
from collections.abc import Callable

from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.protocol import wire


class Registrar:
    """Registers, one attempt at a time. `aclose` ends it.

    An attempt may outlive the state that began it: the coordinator may have carried it out already, and what it has
    written down has to be undone by whoever leaves.
    """

    def __init__(
        self,
        client: CoordinatorClient,
        registration: wire.Registration,
        on_registered: Callable[[wire.Registered], None],
    ) -> None:
        """`on_registered` is told of each attempt that succeeds, whether somebody still waits for it or not."""
        self._client = client
        self._on_registered = on_registered
        self._registration = registration
        self._attempt: asyncio.Task[wire.Registered] | None = None

    async def register(self) -> wire.Registered:
        """A cancelled wait leaves the attempt under way. Raises what `CoordinatorClient.register` raises."""
        return await asyncio.shield(self._begin())

    def register_meanwhile(self) -> None:
        """Begin to register, unless that is under way: reports are taken from a registered runner only."""
        if self._attempt is None or self._attempt.done():
            self._begin()

    async def runner_id(self, limit_s: float) -> str | None:
        """The runner's id, an attempt that is under way being heard out for `limit_s`; None: it is not registered."""
        if self._attempt is None:
            return None
        with contextlib.suppress(TimeoutError, CoordinatorError):
            async with asyncio.timeout(limit_s):
                return (await asyncio.shield(self._attempt)).runner_id
        return None

    async def aclose(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])

    def _begin(self) -> "asyncio.Task[wire.Registered]":
        if self._attempt is not None:
            self._attempt.cancel()
        self._attempt = asyncio.create_task(self._client.register(self._registration), name="registration")
        self._attempt.add_done_callback(self._ended)
        return self._attempt

    def _ended(self, attempt: "asyncio.Task[wire.Registered]") -> None:
        if not attempt.cancelled() and attempt.exception() is None:
            logger.info("registered at {} as {}", self._client.api.url, attempt.result().runner_id)
            self._on_registered(attempt.result())
