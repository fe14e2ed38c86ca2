"""Writes the journal's records, one batch after another."""

import asyncio
import sqlite3
import time
from collections import ChainMap
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from loguru import logger

from fsm_runner.journal.batch import Batch, Row
from fsm_runner.journal.limits import CLOSE_WITHIN_S, PRUNE_INTERVAL_S, RETRY_INTERVAL_S, SLOW_DISK_S
from fsm_runner.journal.writer import JournalFileGone, Writer
from fsm_runner.util.files import CHECK_INTERVAL_S

Value = TypeVar("Value")
OnChange = Callable[[str | None], None]
"""Receives why the journal cannot be written any more, and None when it can again."""

NOT_IN_TIME = "the disk did not take it in time"


class Flusher:
    """One task and one thread. While they write one batch, further records gather in `pending`."""

    def __init__(self, writer: Writer, thread: ThreadPoolExecutor, flush_within_s: float, on_change: OnChange) -> None:
        self.pending = Batch()
        self._writer = writer
        self._thread = thread
        self._flush_within_s = flush_within_s
        self._on_change = on_change
        self._writing: Batch | None = None
        self._failure: str | None = None
        self._has_work = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._is_closing = False
        self._prune_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Schedule a write. Call this after a change of `pending`."""
        if self._has_work.is_set():
            return
        self._has_work.set()
        if self._task is None and not self._is_closing:
            self._task = asyncio.get_running_loop().create_task(self._flush_until_closed(), name="journal")

    async def flush(self) -> str | None:
        """Wait until all records are on disk; return None, or why the write failed."""
        batch = self._writing if self.pending.is_empty() else self.pending
        if batch is None:
            return None
        if self._task is None or self._task.done():
            return "it is closed"
        waiter: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        batch.waiters.append(waiter)
        if batch is self.pending:
            self._is_urgent.set()
        return await waiter

    def unwritten_tree_sessions(self) -> Mapping[str, Row]:
        """Return the rows that may not be on disk yet, by session id."""
        newer = self.pending.tree_sessions
        return ChainMap(newer, self._writing.tree_sessions) if self._writing is not None else newer

    async def message(self, message_id: int) -> bytes:
        """Return a message's content. Raises KeyError if there is none, sqlite3.Error if it cannot be read."""
        for batch in (self.pending, self._writing):
            if batch is not None and message_id in batch.messages:
                return batch.messages[message_id][1]
        return await self.in_thread(lambda: self._writer.message(message_id))

    async def aclose(self) -> None:
        """Try once more to write what is queued; then the thread closes the file, as soon as it is done with it."""
        if self._is_closing:
            return
        self._is_closing = True
        self._has_work.set()
        self._is_urgent.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self._end()
        finally:
            self._thread.shutdown(wait=False)

    async def _end(self) -> None:
        try:
            if self._task is not None:
                await self._task
        finally:
            closed = self._thread.submit(self._writer.close)
            for batch in (self.pending, self._writing):
                if batch is not None:
                    batch.release(NOT_IN_TIME)
        await asyncio.wrap_future(closed)

    async def _flush_until_closed(self) -> None:
        while not self._is_closing:
            await self._wait_until_due()
            await self._flush()
        await self._flush()

    async def _wait_until_due(self) -> None:
        """Return at once if `flush` was called, else a while after the first record, to write several at once.

        Without records it returns every `CHECK_INTERVAL_S`, since the files may have been deleted.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self._writer.opened.path is None else CHECK_INTERVAL_S):
                await self._has_work.wait()
        if not self._has_work.is_set():
            return
        if not self._is_urgent.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_within_s if self._failure is None else RETRY_INTERVAL_S):
                    await self._is_urgent.wait()
        self._is_urgent.clear()

    async def _flush(self) -> None:
        batch, self.pending = self.pending, Batch()
        self._has_work.clear()
        if batch.is_empty() and self._failure is None:
            batch.release(None)
            if not self._is_closing:
                self._report(await self._attempt(self._writer.check))
            return
        self._writing = batch
        try:
            failure = await self._attempt(lambda: self._writer.write(batch))
        except asyncio.CancelledError:
            batch.release(NOT_IN_TIME)
            raise
        finally:
            self._writing = None
        self._report(failure)
        batch.release(failure)
        if failure is None:
            await self._prune()
        else:
            # Before the records that were queued meanwhile.
            batch.extend(self.pending)
            self.pending = batch
            self._has_work.set()

    async def _attempt(self, work: Callable[[], None]) -> str | None:
        """Do the work in the thread; return None, or why it failed."""
        slow = asyncio.get_running_loop().call_later(SLOW_DISK_S, self._report, "the disk does not answer")
        try:
            await self.in_thread(work)
        except sqlite3.Error as error:
            return _reason(error)
        except JournalFileGone as gone:
            return str(gone)
        except Exception as defect:  # noqa: BLE001 - the waiters would otherwise wait forever
            logger.opt(exception=defect).error("journal: a batch cannot be written")
            return repr(defect)
        finally:
            slow.cancel()
        return None

    def _report(self, failure: str | None) -> None:
        if (failure is None) is not (self._failure is None):
            # Not called from here: an exception of the callback must not end this task.
            asyncio.get_running_loop().call_soon(self._on_change, failure)
        self._failure = failure

    async def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        has_more = False
        try:
            has_more = await self.in_thread(self._writer.prune)
        except sqlite3.Error as error:
            logger.warning("journal: old records cannot be deleted: {}", _reason(error))
        except Exception as defect:  # noqa: BLE001 - nothing would be written any more if this task ended
            logger.opt(exception=defect).error("journal: old records cannot be deleted")
        self._prune_at = time.monotonic() + (0 if has_more else PRUNE_INTERVAL_S)

    async def in_thread(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _reason(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)
