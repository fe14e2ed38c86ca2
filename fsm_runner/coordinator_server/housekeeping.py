"""What a coordinator does regularly, without a request."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

from loguru import logger

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.util.tasks import background_task

PRUNE_ROWS = 100
"""The rows that one step of the retention deletes. Other requests wait for it, about 10 ms with 1,000,000 runs."""
PRUNE_PAUSE_S = 0.05
"""The pause between two steps, so that other requests get most of the database's time."""


class Housekeeping:
    """Tasks that end with the context."""

    def __init__(self, coordinator: Coordinator, keep_runs_s: float | None) -> None:
        """`keep_runs_s`: how long sessions are kept after the end of their last run; None: until they are deleted."""
        self._coordinator = coordinator
        self._keep_runs_s = keep_runs_s
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        timings = self._coordinator.timings
        tasks = [
            ("sweep", timings.sweep_interval_s, self._sweep),
            ("queue", timings.tick_interval_s, self._coordinator.queue.tick),
        ]
        if self._keep_runs_s is not None:
            tasks.append(("retention", timings.retention_interval_s, partial(self._prune, self._keep_runs_s)))
        async with AsyncExitStack() as stack:
            for name, interval_s, work in tasks:
                task = background_task(_repeated(name, interval_s, work), f"coordinator-{name}")
                await stack.enter_async_context(task)
            self._stack = stack.pop_all()

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _sweep(self) -> None:
        """Expire silent runners: subscribers to events learn of it without sending a request."""
        if await self._coordinator.store.check() is None:
            await self._coordinator.runners.expire()
            await self._coordinator.runners.close_departed()

    async def _prune(self, keep_s: float) -> None:
        """Delete what is kept no longer."""
        while await self._coordinator.store.prune(keep_s, PRUNE_ROWS):  # noqa: ASYNC110 - a pause, not a wait
            await asyncio.sleep(PRUNE_PAUSE_S)


async def _repeated(name: str, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work at once, and then again after each interval."""
    while True:
        try:
            await work()
        except Unavailable:  # logged by the store
            pass
        except Exception as defect:  # noqa: BLE001 - without this task, nothing would do the work
            logger.opt(exception=defect).error("coordinator: the task {} failed and is repeated", name)
        await asyncio.sleep(interval_s)
