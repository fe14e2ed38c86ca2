"""The one thread in which the store works, so that the event loop never waits for the disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from fsm_runner.coordinator.embedded.hub import EventHub
from fsm_runner.coordinator.embedded.notices import Notice
from fsm_runner.coordinator.embedded.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class StoreWorker:
    """Operations are carried out one after another, each as one transaction; what they changed is published."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="coordinator-store")
        self._store: Store | None = None

    async def open(self, file: Path | None) -> None:
        """Raises UsageError that names the file."""
        self._store = await self._in_thread(lambda: Store(file))

    async def close(self) -> None:
        """Everything asked for before is still done."""
        if self._store is not None:
            await self._in_thread(self._store.close)
        self._thread.shutdown(wait=True)

    async def do(self, operation: Callable[Concatenate[Store, P], T], *values: P.args, **named: P.kwargs) -> T:
        """Carry out `operation(store, …)`. What it raises leaves no trace in the database."""
        store = self._store
        if store is None:
            raise RuntimeError("the store is not open")

        def work() -> tuple[T, list[Notice]]:
            try:
                with store.database.transaction():
                    result = operation(store, *values, **named)
            except BaseException:
                store.notices.take()
                raise
            return result, store.notices.take()

        result, notices = await self._in_thread(work)
        self._hub.publish(notices)
        return result

    async def aside(self, work: Callable[[], T]) -> T:
        """Something else that reads files, in the same thread."""
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
