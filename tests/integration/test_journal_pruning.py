"""A journal stays within its limits, and loses nothing that is still needed."""

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from fsm_runner.journal.journal import Journal
from fsm_runner.journal.limits import PRUNED_SUBJECTS, RETENTION, RetentionLimits
from fsm_runner.journal.pruning import Pruner
from fsm_runner.journal.records import Report, Transition, WorkflowRecord
from fsm_runner.journal.schema import RUNNER_TRANSITIONS, create_tables

NOTHING_OLD = RetentionLimits(age_s=0.0)
HALF_A_MIB = RetentionLimits(size_bytes=512 * 1024)
WORKFLOW = WorkflowRecord(name="loop", path="/loop.toml", text="", sha256="0f", schemas=b"{}", parameters=b"{}")
REPORT = Report("/runner/runs/run_1/completed", b"x" * 2_000)


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{folder}/journal.sqlite?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def follow_workflow(journal: Journal, run_id: str) -> None:
    journal.record_workflow(run_id, WORKFLOW)
    journal.record_visit(run_id, 1, "write", None)
    journal.record_transition(Transition("workflow", run_id, "done", "write", "check", None, ""))
    journal.record_visit_end(run_id, 1, "done", "check", "work", b"{}", None)
    journal.record_visit(run_id, 2, "check", None)


def end_run(journal: Journal, number: int) -> None:
    run_id = f"run_{number:04}"
    journal.record_claim(run_id, "ses_1", None, "lnch_1", b"{}" * 500)
    journal.record_transition(Transition("run", run_id, "accepted", "claimed", "executing", None, ""))
    journal.record_transition(Transition("run", run_id, "reported", "reporting", "completed", "completed", ""))
    journal.record_report(run_id, REPORT)
    journal.record_run_end(run_id)


def note_what_is_open(journal: Journal) -> None:
    journal.record_claim("run_open", "ses_open", None, "lnch_1", b"its run")
    journal.record_transition(Transition("run", "run_open", "accepted", "claimed", "executing", None, ""))
    journal.record_session_start("ses_open", "lnch_1", b"its run")
    journal.record_transition(Transition("session", "ses_open", "started", "starting", "busy", None, ""))
    journal.store_message("ses_open", b"content")


async def fill(folder: Path, runs: int) -> None:
    journal = Journal(folder)
    note_what_is_open(journal)
    for number in range(runs):
        end_run(journal, number)
    journal.record_transition(Transition("runner", "lnch_1", "registered", "registering", "online", None, ""))
    journal.record_session_start("ses_ended", "lnch_1", b"{}")
    journal.record_transition(Transition("session", "ses_ended", "exited", "idle", "ended", "finished", ""))
    journal.record_session_end("ses_ended")
    await journal.aclose()


async def pruned(folder: Path, limits: RetentionLimits) -> int:
    """Prune until nothing is left to delete; return the number of calls that deleted something."""
    journal = Journal(folder, limits=limits)
    steps = 0
    while journal._flusher._thread.submit(journal._flusher._writer.prune).result():
        steps += 1
    await journal.aclose()
    return steps


async def assert_what_is_open_is_whole(folder: Path) -> None:
    journal = Journal(folder)
    await journal.aclose()
    (run,) = journal.recovered.runs
    (session,) = journal.recovered.sessions
    (message,) = journal.recovered.messages
    assert (run.run_id, run.run, run.state) == ("run_open", b"its run", "executing")
    assert (session.session_id, session.run, session.state) == ("ses_open", b"its run", "busy")
    assert message.content == b"content"


async def test_records_of_what_ended_too_long_ago_are_deleted(tmp_path: Path) -> None:
    await fill(tmp_path, 3)
    await pruned(tmp_path, NOTHING_OLD)
    assert rows(tmp_path, "SELECT run_id FROM runs") == [("run_open",)]
    assert rows(tmp_path, "SELECT session_id FROM sessions") == [("ses_open",)]
    assert rows(tmp_path, "SELECT subject FROM transitions ORDER BY subject") == [("run_open",), ("ses_open",)]
    await assert_what_is_open_is_whole(tmp_path)


async def test_a_workflow_is_deleted_with_its_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    note_what_is_open(journal)
    follow_workflow(journal, "run_open")
    for number in range(2):
        end_run(journal, number)
        follow_workflow(journal, f"run_{number:04}")
    await journal.aclose()
    assert await pruned(tmp_path, RetentionLimits(age_s=3600.0)) == 0
    assert len(rows(tmp_path, "SELECT 1 FROM workflow_visits")) == 6
    await pruned(tmp_path, NOTHING_OLD)
    for query in (
        "SELECT run_id FROM workflows",
        "SELECT DISTINCT run_id FROM workflow_visits",
        "SELECT DISTINCT subject FROM transitions WHERE machine = 'workflow'",
    ):
        assert rows(tmp_path, query) == [("run_open",)], query


async def test_the_transitions_of_an_open_workflow_stay_whatever_their_age(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    note_what_is_open(journal)
    follow_workflow(journal, "run_open")
    await journal.aclose()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE transitions SET at = '2001-01-01T00:00:00.000000Z'")
    await pruned(tmp_path, RetentionLimits(age_s=3600.0, size_bytes=0))
    assert rows(tmp_path, "SELECT count(*) FROM transitions WHERE machine = 'workflow'") == [(1,)]


@pytest.mark.parametrize("query", ["DELETE", "SELECT"])
def test_the_runners_transitions_are_found_through_their_index(query: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        form = f"{query} {'seq ' * (query == 'SELECT')}FROM transitions WHERE {RUNNER_TRANSITIONS} AND at <= '2'"
        ((*_, plan),) = connection.execute(f"EXPLAIN QUERY PLAN {form}").fetchall()
    assert "transitions_of_no_subject" in plan


async def test_a_plan_of_a_run_that_is_never_claimed_is_deleted_on_opening(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_rerun("ses_never", WORKFLOW)
    await journal.aclose()
    await Journal(tmp_path).aclose()
    assert rows(tmp_path, "SELECT session_id FROM reruns") == [("ses_never",)]
    await Journal(tmp_path, limits=NOTHING_OLD).aclose()
    assert rows(tmp_path, "SELECT session_id FROM reruns") == []


async def test_newer_records_stay(tmp_path: Path) -> None:
    await fill(tmp_path, 3)
    assert await pruned(tmp_path, RetentionLimits(age_s=3600.0)) == 0
    assert len(rows(tmp_path, "SELECT 1 FROM runs")) == 4
    assert len(rows(tmp_path, "SELECT 1 FROM sessions")) == 2
    assert len(rows(tmp_path, "SELECT 1 FROM transitions")) == 2 + 3 * 2 + 2


async def test_age_counts_from_the_end(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET claimed_at = '2001-01-01T00:00:00.000000Z'")
        connection.execute("UPDATE transitions SET at = '2001-01-01T00:00:00.000000Z'")
        connection.execute("UPDATE runs SET ended_at = '2001-01-02T00:00:00.000000Z' WHERE run_id = 'run_0000'")
    await pruned(tmp_path, RETENTION)
    assert rows(tmp_path, "SELECT run_id FROM runs ORDER BY run_id") == [("run_0001",), ("run_open",)]
    assert rows(tmp_path, "SELECT count(*) FROM transitions WHERE subject = 'run_0001'") == [(2,)]
    assert rows(tmp_path, "SELECT count(*) FROM transitions WHERE machine = 'runner'") == [(0,)]
    await assert_what_is_open_is_whole(tmp_path)


async def test_above_the_size_limit_the_oldest_records_are_deleted_and_the_file_shrinks(tmp_path: Path) -> None:
    await fill(tmp_path, 1_000)
    file = tmp_path / "journal.sqlite"
    assert file.stat().st_size > 4 * HALF_A_MIB.size_bytes
    await pruned(tmp_path, HALF_A_MIB)
    assert HALF_A_MIB.size_bytes / 2 < file.stat().st_size <= HALF_A_MIB.size_bytes
    left = [run_id for (run_id,) in rows(tmp_path, "SELECT run_id FROM runs WHERE ended_at NOT NULL ORDER BY run_id")]
    assert left == [f"run_{number:04}" for number in range(1_000 - len(left), 1_000)]
    assert len(left) >= 50
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    await assert_what_is_open_is_whole(tmp_path)


async def test_open_runs_and_sessions_stay_whatever_their_size(tmp_path: Path) -> None:
    await fill(tmp_path, 60)
    await pruned(tmp_path, RetentionLimits(size_bytes=0))
    assert rows(tmp_path, "SELECT run_id FROM runs") == [("run_open",)]
    await assert_what_is_open_is_whole(tmp_path)


async def test_the_file_shrinks_while_it_is_in_use(tmp_path: Path) -> None:
    await fill(tmp_path, 1_000)
    before_bytes = (tmp_path / "journal.sqlite").stat().st_size
    journal = Journal(tmp_path, limits=HALF_A_MIB)
    while journal._flusher._thread.submit(journal._flusher._writer.prune).result():
        pass
    assert (tmp_path / "journal.sqlite").stat().st_size < before_bytes / 4
    await journal.aclose()


async def test_a_flush_is_followed_by_one_small_deletion(tmp_path: Path) -> None:
    await fill(tmp_path, 3 * PRUNED_SUBJECTS)
    journal = Journal(tmp_path, limits=NOTHING_OLD)
    left = []
    for _ in range(4):
        journal.store_message("ses_open", b"content")
        await journal.flush()
        left.append(len(rows(tmp_path, "SELECT 1 FROM runs WHERE ended_at NOT NULL")))
    await journal.aclose()
    # The pruning after a flush is done before the next flush.
    assert all(more - less <= 2 * PRUNED_SUBJECTS for more, less in pairwise(left))
    assert left[0] >= 2 * PRUNED_SUBJECTS
    assert left[3] == 0


async def test_a_flush_does_not_search_for_old_records_when_none_were_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    searches = 0
    prune = journal._flusher._writer.prune

    def counted() -> bool:
        nonlocal searches
        searches += 1
        return prune()

    journal._flusher._writer.prune = counted
    for _ in range(5):
        journal.store_message("ses_open", b"content")
        await journal.flush()
    await journal.aclose()
    assert searches == 1


async def test_old_transitions_without_a_run_or_session_are_deleted_on_opening(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_transition(Transition("run", "run_unknown", "accepted", "claimed", "executing", None, ""))
    journal.record_transition(Transition("session", "ses_unknown", "started", "starting", "busy", None, ""))
    await journal.aclose()
    await Journal(tmp_path).aclose()
    assert len(rows(tmp_path, "SELECT 1 FROM transitions")) == 2
    await Journal(tmp_path, limits=NOTHING_OLD).aclose()
    assert rows(tmp_path, "SELECT 1 FROM transitions") == []


async def test_a_disk_that_is_too_full_to_delete_anything_does_not_end_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path, 1)
    journal = Journal(tmp_path, limits=NOTHING_OLD)

    def fail() -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal._flusher._writer, "prune", fail)
    for _ in range(2):
        journal.store_message("ses_open", b"content")
        await journal.flush()
    assert journal.unwritable is None
    await journal.aclose()
    assert len(rows(tmp_path, "SELECT 1 FROM messages")) == 3


async def test_a_defect_in_pruning_does_not_end_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Pruner) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Pruner, "step", broken)
    journal = Journal(tmp_path)
    for number in range(2):
        end_run(journal, number)
        await journal.flush()
    await journal.aclose()
    assert len(rows(tmp_path, "SELECT * FROM runs")) == 2
