"""What was kept when it could not be written, and what was noted since, become one."""

from fsm_runner.journal.batch import Batch, ClaimRow, MessageRow, ReportRow, RunEndRow, SessionEndRow


def claimed(run_id: str) -> ClaimRow:
    return ClaimRow(run_id, "ses_1", None, "lnch_1", "", b"")


def put(batch: Batch, message_id: int) -> None:
    batch.messages[message_id] = MessageRow(message_id, "ses_1", b"")


def test_the_older_records_come_first() -> None:
    kept, newer = Batch(), Batch()
    kept.claims.append(claimed("run_1"))
    newer.claims.append(claimed("run_2"))
    kept.sessions.append(SessionEndRow("ses_1", ""))
    newer.sessions.append(SessionEndRow("ses_2", ""))
    put(kept, 1)
    put(newer, 2)
    kept.extend(newer)
    assert [row.run_id for row in kept.claims] == ["run_1", "run_2"]
    assert [row.session_id for row in kept.sessions] == ["ses_1", "ses_2"]
    assert list(kept.messages) == [1, 2]


def test_the_latest_report_stands_and_the_first_end() -> None:
    kept, newer = Batch(), Batch()
    kept.reports["run_1"] = ReportRow("run_1", "/first", b"")
    newer.reports["run_1"] = ReportRow("run_1", "/second", b"")
    kept.run_ends["run_1"] = RunEndRow("run_1", "first")
    newer.run_ends["run_1"] = RunEndRow("run_1", "second")
    kept.extend(newer)
    assert kept.reports["run_1"].path == "/second"
    assert kept.run_ends["run_1"].ended_at == "first"


def test_a_message_that_was_kept_and_is_gone_since_never_reaches_the_disk() -> None:
    kept, newer = Batch(), Batch()
    put(kept, 1)
    newer.delete_message(1)
    newer.delete_message(0)
    kept.extend(newer)
    assert kept.messages == {}
    assert kept.deleted == [0]


def test_a_batch_whose_only_message_is_gone_is_empty() -> None:
    batch = Batch()
    put(batch, 1)
    assert not batch.is_empty()
    batch.delete_message(1)
    assert batch.is_empty()
