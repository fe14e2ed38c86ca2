"""The thread in which the store works, so that the event loop never waits for the disk."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from loguru import logger

from fsm_runner.coordinator_server.store.interface import ChangeEvent, Publish
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.database_errors import DatabaseUnavailable
from fsm_runner.coordinator_server.store.sqlite.tables import Tables

T = TypeVar("T")

RECOVERED_AFTER_S = 5.0
"""The log reports the recovery of the database after this long without a failure: on a disk that is nearly full, some
writes fail and others succeed."""


class StoreWorker:
    """Runs operations one after another, each as one transaction, and publishes their changes."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="coordinator-store")
        self._tables: Tables | None = None
        self._has_failed = False
        """Whether the last write failed. If so, `check` has to test a write."""
        self._failed_at_s = 0.0
        self._is_failure_logged = False

    async def open(self, open_database: Callable[[], Database]) -> None:
        """Open the database in the store's thread. Raises what `open_database` raises."""
        self._tables = await self._in_thread(lambda: Tables(open_database()))

    async def close(self) -> None:
        """Close the database after the operations that were submitted before."""
        if self._tables is not None:
            await self._in_thread(self._tables.database.close)
        self._thread.shutdown(wait=True)

    async def do(self, operation: Callable[[Tables], T]) -> T:
        """Run an operation. If it raises, the database is unchanged.

        Raises `DatabaseUnavailable` too.
        """
        tables = self._opened()

        def work() -> tuple[T, list[ChangeEvent], bool]:
            changed_rows = tables.database.changed_rows
            with tables.database.transaction():
                result = operation(tables)
            return result, tables.database.take_events(), tables.database.changed_rows != changed_rows

        try:
            result, events, has_written = await self._in_thread(work)
        except DatabaseUnavailable as reason:
            self._note_failure(reason)
            raise
        if has_written:
            self._note_success()
        self._publish(events)
        return result

    async def check(self) -> DatabaseUnavailable | None:
        """Return why the database cannot be used, if so. Tests a write if the last write failed."""
        tables, by_writing = self._opened(), self._has_failed
        try:
            await self._in_thread(lambda: tables.database.check(by_writing=by_writing))
        except DatabaseUnavailable as reason:
            self._note_failure(reason)
            return reason
        self._note_success()
        return None

    def _opened(self) -> Tables:
        if self._tables is None:
            raise RuntimeError("the store is not open")
        return self._tables

    def _note_failure(self, reason: DatabaseUnavailable) -> None:
        """Log the first failure of an outage, however many requests fail."""
        self._has_failed, self._failed_at_s = True, time.monotonic()
        if not self._is_failure_logged:
            logger.error("coordinator: requests that write to the database fail: {}", reason)
        self._is_failure_logged = True

    def _note_success(self) -> None:
        self._has_failed = False
        if self._is_failure_logged and time.monotonic() - self._failed_at_s >= RECOVERED_AFTER_S:
            self._is_failure_logged = False
            logger.info("coordinator: the database can be used again")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
