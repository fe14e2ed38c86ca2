"""When what was noted gets to the disk, and how often the disk is asked."""

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.journal.records import Report, Transition
from tests.support.watch import PATIENCE_S

NEVER_BY_ITSELF_S = 3600.0


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path, flush_within_s=NEVER_BY_ITSELF_S)
    journal._flusher._prune_at = math.inf
    try:
        yield journal
    finally:
        await journal.aclose()


class Statements:
    """The statements that SQLite executes."""

    def __init__(self, journal: Journal) -> None:
        self.texts: list[str] = []
        connection = journal._flusher._writer._connection
        journal._flusher._thread.submit(connection.set_trace_callback, self.texts.append).result()

    @property
    def commits(self) -> int:
        return self.texts.count("COMMIT")


def note(journal: Journal, subject: str = "run_1") -> None:
    journal.record_transition(Transition("run", subject, "event", "source", "target", None, ""))


async def being_written(journal: Journal) -> None:
    while journal._flusher._writing is None:  # noqa: ASYNC110 - the journal tells of the end alone
        await asyncio.sleep(0)


def on_disk(folder: Path, table: str = "transitions") -> int:
    connection = sqlite3.connect(f"file:{folder}/journal.sqlite?mode=ro", uri=True)
    try:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count
    finally:
        connection.close()


async def test_what_was_noted_before_is_on_disk_when_written_returns(tmp_path: Path, journal: Journal) -> None:
    for count in range(1, 4):
        note(journal)
        await journal.flush()
        assert on_disk(tmp_path) == count


async def test_flush_returns_at_once_if_nothing_is_pending(journal: Journal) -> None:
    statements = Statements(journal)
    await journal.flush()
    note(journal)
    await journal.flush()
    await journal.flush()
    assert statements.commits == 1


async def test_records_without_a_flush_are_written_after_a_while(tmp_path: Path) -> None:
    journal = Journal(tmp_path, flush_within_s=0.01)
    try:
        note(journal)
        assert on_disk(tmp_path) == 0
        async with asyncio.timeout(PATIENCE_S):
            while on_disk(tmp_path) == 0:  # noqa: ASYNC110 - the test is about records that no call waits for
                await asyncio.sleep(0.01)
    finally:
        await journal.aclose()


async def test_simultaneous_flushes_share_a_commit(tmp_path: Path, journal: Journal) -> None:
    statements = Statements(journal)

    async def live(run_id: str) -> None:
        journal.record_claim(run_id, "ses_1", None, "lnch_1", b"{}")
        note(journal, run_id)
        await journal.flush()
        journal.record_report(run_id, Report("/path", b"{}"))
        note(journal, run_id)
        await journal.flush()

    async with asyncio.TaskGroup() as runs:
        for number in range(50):
            runs.create_task(live(f"run_{number}"))
    assert on_disk(tmp_path) == 100
    assert statements.commits <= 4


async def test_records_of_a_kind_share_a_statement(journal: Journal) -> None:
    statements = Statements(journal)
    for number in range(127):
        note(journal, f"run_{number}")
    await journal.flush()
    assert len(statements.texts) == len(["BEGIN", *(64, 32, 16, 8, 4, 2, 1), "COMMIT"])


async def test_what_comes_while_a_batch_is_being_written_is_in_the_next(tmp_path: Path, journal: Journal) -> None:
    statements = Statements(journal)
    note(journal)
    first = asyncio.create_task(journal.flush())
    await being_written(journal)
    note(journal)
    second = asyncio.create_task(journal.flush())
    await first
    assert not second.done()
    await second
    assert on_disk(tmp_path) == 2
    assert statements.commits == 2


async def test_a_message_that_is_gone_in_time_never_reaches_the_disk(journal: Journal) -> None:
    statements = Statements(journal)
    journal.delete_message(journal.store_message("ses_1", b"content"))
    note(journal)
    await journal.flush()
    assert not [text for text in statements.texts if "messages" in text]


async def test_a_cancelled_flush_does_not_cancel_the_others(tmp_path: Path, journal: Journal) -> None:
    note(journal)
    waiting = [asyncio.create_task(journal.flush()) for _ in range(3)]
    await being_written(journal)
    waiting[1].cancel()
    await waiting[0]
    await waiting[2]
    assert waiting[1].cancelled()
    assert on_disk(tmp_path) == 1


async def test_closing_writes_pending_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path, flush_within_s=NEVER_BY_ITSELF_S)
    note(journal)
    note(journal)
    await journal.aclose()
    await journal.aclose()
    assert on_disk(tmp_path) == 2


async def test_after_closing_no_flush_waits_for_ever(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.aclose()
    note(journal)
    with pytest.raises(JournalUnwritable, match=r"journal\.sqlite cannot be written: it is closed"):
        await journal.flush()


async def test_a_reader_does_not_hold_up_the_writing(tmp_path: Path, journal: Journal) -> None:
    note(journal)
    await journal.flush()
    reader = sqlite3.connect(f"file:{tmp_path}/journal.sqlite?mode=ro", uri=True, isolation_level=None)
    try:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM transitions").fetchone() == (1,)
        for _ in range(20):
            for _ in range(500):  # more than fits before the file is brought up to date
                note(journal)
            await journal.flush()
        assert journal.unwritable is None
        assert reader.execute("SELECT count(*) FROM transitions").fetchone() == (1,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM transitions").fetchone() == (10_001,)
    finally:
        reader.close()
