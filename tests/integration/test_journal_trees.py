"""The journal keeps the places of sessions in their trees and what they have used, as long as a tree is of use."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fsm_runner.journal.journal import Journal, JournalUnreadable, JournalUnwritable
from fsm_runner.journal.limits import RetentionLimits
from fsm_runner.journal.records import NOTHING_USED, TreeSession, TreeTotals, UsageSums

OLD = "2001-01-01T00:00:00.000000Z"
A_DAY = RetentionLimits(age_s=24 * 3600.0)


def session(name: str, root: str = "ses_root", depth: int = 1, **used: float) -> TreeSession:
    return TreeSession(session_id=name, root_session_id=root, depth=depth, used=UsageSums(**used))  # type: ignore[arg-type]  # numbers of both types


ROOT = session("ses_root", depth=0, tokens=5, cost_usd=0.25)


async def write(folder: Path, *sessions: TreeSession) -> None:
    journal = Journal(folder)
    for each in sessions:
        journal.record_tree_session(each)
    await journal.aclose()


async def prune(folder: Path, limits: RetentionLimits = A_DAY) -> list[str]:
    """Prune, and return the sessions that are left."""
    journal = Journal(folder, limits=limits)
    while journal._flusher._thread.submit(journal._flusher._writer.prune).result():
        pass
    await journal.aclose()
    return [name for (name,) in execute(folder, "SELECT session_id FROM tree_sessions ORDER BY session_id")]


def execute(folder: Path, statement: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


async def test_the_next_process_has_the_latest_records(tmp_path: Path) -> None:
    await write(tmp_path, ROOT, session("ses_1"), session("ses_1", tokens=2, turns=1), session("ses_2", "ses_2", 0))
    journal = Journal(tmp_path)
    assert await journal.tree_session("ses_root") == ROOT
    assert await journal.tree_session("ses_1") == session("ses_1", tokens=2, turns=1)
    assert await journal.tree_session("ses_3") is None
    assert await journal.tree_totals("ses_root") == TreeTotals(1, UsageSums(0.25, 7, 1))
    assert await journal.tree_totals("ses_3") == TreeTotals(0, NOTHING_USED)
    await journal.aclose()


async def test_records_that_are_not_on_disk_yet_are_read_too(tmp_path: Path) -> None:
    await write(tmp_path, ROOT, session("ses_1", tokens=1))
    journal = Journal(tmp_path, flush_within_s=3600.0)
    for tokens in (2, 3):
        journal.record_tree_session(session("ses_1", tokens=tokens))
    journal.record_tree_session(session("ses_2", tokens=10))
    journal.record_tree_session(session("ses_3", "ses_3", 0, tokens=100))
    assert await journal.tree_session("ses_1") == session("ses_1", tokens=3)
    expected = TreeTotals(2, UsageSums(0.25, 18, 0))
    assert await journal.tree_totals("ses_root") == expected
    await journal.flush()
    assert await journal.tree_totals("ses_root") == expected
    await journal.aclose()


async def test_a_journal_that_cannot_be_written_has_the_latest_records_nevertheless(tmp_path: Path) -> None:
    journal = Journal(tmp_path, flush_within_s=0.0)
    connection = journal._flusher._writer._connection
    journal._flusher._thread.submit(connection.execute, "PRAGMA query_only=1").result()
    for tokens in (1, 2):
        journal.record_tree_session(session("ses_1", tokens=tokens))
        with pytest.raises(JournalUnwritable):
            await journal.flush()
    assert await journal.tree_session("ses_1") == session("ses_1", tokens=2)
    assert await journal.tree_totals("ses_root") == TreeTotals(1, UsageSums(tokens=2))
    await journal.aclose()


async def test_records_of_a_write_that_fails_are_read_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path, flush_within_s=3600.0)
    thread, may_write = journal._flusher._thread, threading.Event()
    connection = journal._flusher._writer._connection
    thread.submit(connection.execute, "PRAGMA query_only=1")
    thread.submit(may_write.wait)
    journal.record_tree_session(session("ses_1", tokens=1))
    flushing = asyncio.ensure_future(journal.flush())
    while journal._flusher._writing is None:  # noqa: ASYNC110 - the program has no event for this
        await asyncio.sleep(0)
    reads = [
        asyncio.ensure_future(journal.tree_session("ses_1")),
        asyncio.ensure_future(journal.tree_totals("ses_root")),
    ]
    await asyncio.sleep(0)
    may_write.set()
    assert await asyncio.gather(*reads) == [session("ses_1", tokens=1), TreeTotals(1, UsageSums(tokens=1))]
    with pytest.raises(JournalUnwritable):
        await flushing
    await journal.aclose()


async def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.flush()
    execute(tmp_path, "DROP TABLE tree_sessions")
    with pytest.raises(JournalUnreadable, match=r"journal\.sqlite cannot be read"):
        await journal.tree_session("ses_1")
    with pytest.raises(JournalUnreadable, match=r"journal\.sqlite cannot be read"):
        await journal.tree_totals("ses_1")
    await journal.aclose()


async def test_an_old_tree_is_deleted_as_a_whole(tmp_path: Path) -> None:
    many = [session(f"ses_{number:03}") for number in range(120)]
    await write(tmp_path, ROOT, *many, session("ses_other", "ses_other", 0))
    execute(tmp_path, f"UPDATE tree_sessions SET changed_at = '{OLD}' WHERE session_id != 'ses_119'")
    assert len(await prune(tmp_path)) == 121, "its newest session is not old"
    execute(tmp_path, f"UPDATE tree_sessions SET changed_at = '{OLD}'")
    await write(tmp_path, session("ses_other", "ses_other", 0))
    assert await prune(tmp_path) == ["ses_other"]


async def test_the_tree_of_an_open_run_or_a_live_executor_is_never_deleted(tmp_path: Path) -> None:
    trees = [(session(root, root, 0), session(f"{root}_child", root)) for root in ("ses_run", "ses_live", "ses_ended")]
    await write(tmp_path, *(each for tree in trees for each in tree))
    journal = Journal(tmp_path)
    journal.record_claim("run_1", "ses_run_child", None, "rnr", b"{}")
    journal.record_session_start("ses_live_child", "rnr", b"{}")
    journal.record_claim("run_2", "ses_ended_child", None, "rnr", b"{}")
    journal.record_run_end("run_2")
    journal.record_session_start("ses_ended_child", "rnr", b"{}")
    journal.record_session_end("ses_ended_child")
    await journal.aclose()
    execute(tmp_path, f"UPDATE tree_sessions SET changed_at = '{OLD}'")
    left = ["ses_live", "ses_live_child", "ses_run", "ses_run_child"]
    assert await prune(tmp_path) == left
    assert await prune(tmp_path, RetentionLimits(size_bytes=1)) == left
