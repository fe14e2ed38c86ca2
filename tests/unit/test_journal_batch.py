"""A batch that could not be written and the records since become one batch."""

import pytest

from fsm_runner.journal.batch import Batch, RecordKind, Row


def rows(batch: Batch, kind: RecordKind) -> list[Row]:
    return [row for each, found in batch.statements() if each is kind for row in found]


def batches() -> tuple[Batch, Batch]:
    return Batch(), Batch()


def test_the_older_records_come_first() -> None:
    failed, newer = batches()
    failed.add(RecordKind.CLAIM, "run_1")
    newer.add(RecordKind.CLAIM, "run_2")
    failed.messages[1] = ("ses_1", b"")
    newer.messages[2] = ("ses_1", b"")
    failed.extend(newer)
    assert rows(failed, RecordKind.CLAIM) == [("run_1",), ("run_2",)]
    assert rows(failed, RecordKind.MESSAGE) == [(1, "ses_1", b""), (2, "ses_1", b"")]


def test_a_run_is_claimed_before_it_is_reported_and_reported_before_it_ends() -> None:
    batch = Batch()
    for kind in (RecordKind.RUN_END, RecordKind.REPORT, RecordKind.CLAIM):
        batch.add(kind, "run_1")
    assert [kind for kind, found in batch.statements() if found] == [
        RecordKind.CLAIM,
        RecordKind.REPORT,
        RecordKind.RUN_END,
    ]


def test_starts_and_ends_of_sessions_keep_their_order() -> None:
    batch = Batch()
    calls = [RecordKind.SESSION_START, RecordKind.SESSION_END, RecordKind.SESSION_START, RecordKind.SESSION_START]
    for number, kind in enumerate(calls):
        batch.add(kind, f"ses_{number}")
    assert [(kind, len(found)) for kind, found in batch.statements() if found] == [
        (RecordKind.SESSION_START, 1),
        (RecordKind.SESSION_END, 1),
        (RecordKind.SESSION_START, 2),
    ]


def test_the_latest_report_counts_and_the_first_end() -> None:
    failed, newer = batches()
    for batch, text in ((failed, "first"), (newer, "second")):
        batch.add(RecordKind.REPORT, "run_1", text, b"")
        batch.add(RecordKind.USAGE, "run_1", text)
        batch.add(RecordKind.WAIT, "run_1", text)
        batch.add(RecordKind.WORKSPACE, "run_1", text)
        batch.add(RecordKind.RUN_END, "run_1", text)
    failed.extend(newer)
    assert rows(failed, RecordKind.REPORT) == [("run_1", "second", b"")]
    assert rows(failed, RecordKind.USAGE) == [("run_1", "second")]
    assert rows(failed, RecordKind.WAIT) == [("run_1", "second")]
    assert rows(failed, RecordKind.WORKSPACE) == [("run_1", "second")]
    assert rows(failed, RecordKind.RUN_END) == [("run_1", "first")]


@pytest.mark.parametrize("kind", [RecordKind.USAGE, RecordKind.WAIT, RecordKind.WORKSPACE])
def test_a_batch_that_is_never_written_keeps_one_record_of_a_run(kind: RecordKind) -> None:
    failed = Batch()
    for number in range(100):
        newer = Batch()
        newer.add(kind, "run_1", number)
        failed.extend(newer)
    assert failed.rows[kind] == [("run_1", 99)]


@pytest.mark.parametrize("kind", [RecordKind.VISIT_PROGRESS, RecordKind.VISIT_INTERRUPTED, RecordKind.VISIT_DUE])
def test_a_batch_that_is_never_written_keeps_one_record_of_a_visit(kind: RecordKind) -> None:
    failed = Batch()
    for number in range(100):
        newer = Batch()
        newer.add(kind, "run_1", number % 2, number)
        failed.extend(newer)
    assert sorted(failed.rows[kind]) == [("run_1", 0, 98), ("run_1", 1, 99)]


def test_the_first_end_of_a_visit_counts() -> None:
    failed, newer = batches()
    failed.add(RecordKind.VISIT_END, "run_1", 1, "first")
    newer.add(RecordKind.VISIT_END, "run_1", 1, "second")
    newer.add(RecordKind.VISIT_END, "run_1", 2, "other")
    failed.extend(newer)
    assert sorted(rows(failed, RecordKind.VISIT_END)) == [("run_1", 1, "first"), ("run_1", 2, "other")]


def test_the_latest_place_of_a_session_counts() -> None:
    failed, newer = batches()
    failed.tree_sessions = {"ses_1": ("ses_1", "old"), "ses_2": ("ses_2", "old")}
    newer.tree_sessions = {"ses_1": ("ses_1", "new")}
    assert not newer.is_empty()
    failed.extend(newer)
    assert rows(failed, RecordKind.TREE_SESSION) == [("ses_1", "new"), ("ses_2", "old")]


def test_a_message_that_is_deleted_before_it_is_written_never_reaches_the_disk() -> None:
    failed, newer = batches()
    failed.messages[1] = ("ses_1", b"")
    newer.delete_message(1)
    newer.delete_message(0)
    failed.extend(newer)
    assert rows(failed, RecordKind.MESSAGE) == []
    assert rows(failed, RecordKind.MESSAGE_DELETION) == [(0,)]


def test_a_batch_whose_only_message_is_deleted_is_empty() -> None:
    batch = Batch()
    batch.messages[1] = ("ses_1", b"")
    assert not batch.is_empty()
    batch.delete_message(1)
    assert batch.is_empty()
