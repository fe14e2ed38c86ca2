"""A journal that cannot be written for a while."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fsm_runner.journal.batch import Batch
from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.journal.records import StoredMessage, Transition
from tests.support.watch import PATIENCE_S


class Heard:
    """Records the changes that the journal reports."""

    def __init__(self, journal: Journal) -> None:
        self.changes: list[str] = []
        self.writable_again = asyncio.Event()
        journal._on_unwritable = lambda stuck: self.changes.append(str(stuck))
        journal._on_writable = self._unstuck

    def _unstuck(self) -> None:
        self.changes.append("unstuck")
        self.writable_again.set()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path)
    try:
        yield journal
    finally:
        await journal.aclose()


async def being_written(journal: Journal) -> None:
    while journal._flusher._writing is None:  # noqa: ASYNC110 - the journal has no event for it
        await asyncio.sleep(0)


def set_pragma(journal: Journal, text: str) -> None:
    connection = journal._flusher._writer._connection
    journal._flusher._thread.submit(lambda: connection.execute(f"PRAGMA {text}").fetchall()).result()


def fill(journal: Journal) -> None:
    """SQLite's own limit: to the journal it is a full disk."""
    set_pragma(journal, "max_page_count=1")


def free(journal: Journal) -> None:
    set_pragma(journal, "max_page_count=1000000")


def contents(messages: tuple[StoredMessage, ...]) -> list[bytes | None]:
    return [message.content for message in messages]


async def test_flush_raises_the_reason_of_a_failed_write(tmp_path: Path, journal: Journal) -> None:
    heard = Heard(journal)
    fill(journal)
    journal.store_message("ses_1", b"x" * 10_000)
    expected = f"the journal {tmp_path}/journal.sqlite cannot be written: database or disk is full (SQLITE_FULL)"
    for _ in range(3):
        with pytest.raises(JournalUnwritable) as stuck:
            await journal.flush()
        assert str(stuck.value) == expected
    assert str(journal.unwritable) == expected
    assert heard.changes == [expected]


async def test_queued_records_are_written_in_order_when_the_journal_can_be_written_again(
    tmp_path: Path, journal: Journal
) -> None:
    heard = Heard(journal)
    fill(journal)
    notes = [bytes([number]) * 10_000 for number in range(5)]
    for content in notes:
        journal.store_message("ses_1", content)
        with pytest.raises(JournalUnwritable):
            await journal.flush()
    free(journal)
    await journal.flush()
    await asyncio.wait_for(heard.writable_again.wait(), PATIENCE_S)
    assert journal.unwritable is None
    assert len(heard.changes) == 2
    await journal.aclose()
    reopened = Journal(tmp_path)
    await reopened.aclose()
    assert contents(reopened.recovered.messages) == notes


async def test_records_that_came_during_a_failed_write_follow_the_others_in_the_next_one(
    tmp_path: Path, journal: Journal
) -> None:
    fill(journal)
    journal.record_claim("run_1", "ses_1", None, "lnch_1", b"x" * 10_000)
    first = asyncio.create_task(journal.flush())
    await being_written(journal)
    journal.record_claim("run_2", "ses_1", None, "lnch_1", b"x" * 10_000)
    second = asyncio.create_task(journal.flush())
    for waiting in (first, second):
        with pytest.raises(JournalUnwritable):
            await asyncio.wait_for(waiting, PATIENCE_S)
    free(journal)
    await journal.aclose()
    reopened = Journal(tmp_path)
    await reopened.aclose()
    assert [run.run_id for run in reopened.recovered.runs] == ["run_1", "run_2"]


async def test_a_write_is_retried_without_a_flush(journal: Journal) -> None:
    heard = Heard(journal)
    fill(journal)
    journal.store_message("ses_1", b"x" * 10_000)
    with pytest.raises(JournalUnwritable):
        await journal.flush()
    free(journal)
    await asyncio.wait_for(heard.writable_again.wait(), PATIENCE_S)
    assert journal.unwritable is None


async def test_it_reports_that_it_can_be_written_again_also_without_records(journal: Journal) -> None:
    heard = Heard(journal)
    fill(journal)
    put = journal.store_message("ses_1", b"x" * 10_000)
    with pytest.raises(JournalUnwritable):
        await journal.flush()
    journal.delete_message(put)
    free(journal)
    await asyncio.wait_for(heard.writable_again.wait(), PATIENCE_S)


async def test_a_write_without_records_checks_the_disk(tmp_path: Path, journal: Journal) -> None:
    log = tmp_path / "journal.sqlite-wal"
    before_bytes = log.stat().st_size
    journal._flusher._thread.submit(journal._flusher._writer.write, Batch()).result()
    assert log.stat().st_size > before_bytes


async def test_a_callback_with_a_defect_does_not_end_the_journal(journal: Journal) -> None:
    received: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: received.append(context["exception"]))
    defect = RuntimeError("a defect")

    def break_down(_stuck: JournalUnwritable) -> None:
        raise defect

    journal._on_unwritable = break_down
    fill(journal)
    journal.store_message("ses_1", b"x" * 10_000)
    with pytest.raises(JournalUnwritable):
        await journal.flush()
    free(journal)
    await journal.flush()
    assert received == [defect]


async def test_closing_gives_up_records_that_the_disk_does_not_take(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    fill(journal)
    journal.store_message("ses_1", b"x" * 10_000)
    with pytest.raises(JournalUnwritable):
        await journal.flush()
    await asyncio.wait_for(journal.aclose(), PATIENCE_S)
    reopened = Journal(tmp_path)
    await reopened.aclose()
    assert reopened.recovered.messages == ()


async def test_closing_does_not_wait_forever_for_the_lock_of_another_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        journal.store_message("ses_1", b"content")
        waiting = asyncio.create_task(journal.flush())
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await journal.aclose()
        with pytest.raises(JournalUnwritable, match="database is locked"):
            await waiting
    finally:
        other.close()


async def test_a_lock_that_is_released_in_time_does_no_harm(tmp_path: Path, journal: Journal) -> None:
    heard = Heard(journal)
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        journal.store_message("ses_1", b"content")
        waiting = asyncio.create_task(journal.flush())
        await being_written(journal)
        other.execute("COMMIT")
        await waiting
    finally:
        other.close()
    assert heard.changes == []


async def test_a_disk_that_does_not_answer_counts_as_unwritable_until_it_does(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsm_runner.journal.flusher.SLOW_DISK_S", 0.05)
    heard, answers = Heard(journal), threading.Event()
    journal._flusher._thread.submit(answers.wait)
    journal.record_transition(Transition("run", "run_1", "begun", None, "claimed", None, ""))
    writing = asyncio.create_task(journal.flush())
    async with asyncio.timeout(PATIENCE_S):
        while not heard.changes:  # noqa: ASYNC110 - the journal reports it by a call
            await asyncio.sleep(0.01)
    assert "does not answer" in heard.changes[0]
    assert journal.unwritable is not None
    answers.set()
    await writing
    await heard.writable_again.wait()
    assert journal.unwritable is None
