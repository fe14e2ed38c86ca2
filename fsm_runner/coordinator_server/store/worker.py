"""The one thread in which the store works, so that the event loop never waits for the disk."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from loguru import logger

from fsm_runner.coordinator_server.event_bus import EventHub
from fsm_runner.coordinator_server.store.change_events import Notice
from fsm_runner.coordinator_server.store.database_errors import DatabaseTrouble
from fsm_runner.coordinator_server.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")

RECOVERED_AFTER_S = 5.0
"""The log says that the database can be used again when nothing has failed for this long: on a disk that is nearly
full, writes fail and succeed in turn."""


class StoreWorker:
    """Operations are carried out one after another, each as one transaction; what they changed is published."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="coordinator-store")
        self._store: Store | None = None
        self._trouble: DatabaseTrouble | None = None
        """Why the last write failed; None: it did not."""
        self._failed_at_s = 0.0
        self._is_logged = False
        """Whether the log says that the database cannot be used."""

    async def open(self, file: Path | None) -> None:
        """Raises UsageError that names the file."""
        self._store = await self._in_thread(lambda: Store(file))

    async def close(self) -> None:
        """Everything asked for before is still done."""
        if self._store is not None:
            await self._in_thread(self._store.close)
        self._thread.shutdown(wait=True)

    async def do(self, operation: Callable[Concatenate[Store, P], T], *values: P.args, **named: P.kwargs) -> T:
        """Carry out `operation(store, …)`. What it raises leaves no trace in the database.

        Raises `DatabaseTrouble` where the database cannot be used.
        """
        store = self._opened()

        def work() -> tuple[T, list[Notice], bool]:
            changes = store.database.changes
            try:
                with store.database.transaction():
                    result = operation(store, *values, **named)
            except BaseException:
                store.notices.take()
                raise
            return result, store.notices.take(), store.database.changes != changes

        try:
            result, notices, has_written = await self._in_thread(work)
        except DatabaseTrouble as trouble:
            self._note(trouble)
            raise
        if has_written:
            self._note(None)
        self._hub.publish(notices)
        return result

    async def trouble(self) -> DatabaseTrouble | None:
        """Why the database cannot be used; None: it can. Tries to write where a write has failed before."""
        store, has_failed = self._opened(), self._trouble is not None
        try:
            await self._in_thread(lambda: store.database.check(by_writing=has_failed))
        except DatabaseTrouble as trouble:
            self._note(trouble)
            return trouble
        self._note(None)
        return None

    async def aside(self, work: Callable[[], T]) -> T:
        """Something else that reads files, in the same thread."""
        return await self._in_thread(work)

    def _opened(self) -> Store:
        if self._store is None:
            raise RuntimeError("the store is not open")
        return self._store

    def _note(self, trouble: DatabaseTrouble | None) -> None:
        """Log once when a trouble begins and once when it ends, however many requests fail meanwhile."""
        self._trouble = trouble
        now_s = time.monotonic()
        if trouble is not None:
            self._failed_at_s = now_s
            if not self._is_logged:
                logger.error(
                    "coordinator: requests that need to write are answered with {}: {}", trouble.status, trouble
                )
            self._is_logged = True
        elif self._is_logged and now_s - self._failed_at_s >= RECOVERED_AFTER_S:
            self._is_logged = False
            logger.info("coordinator: the database can be used again")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
