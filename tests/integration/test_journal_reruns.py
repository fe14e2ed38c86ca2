"""The workflow of a run that repeats another one is bound to the run by the claim."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fsm_runner.errors import UsageError
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import WorkflowPosition, WorkflowRecord
from fsm_runner.journal.recovery import recover

WORKFLOW = WorkflowRecord(
    name="loop",
    path="/home/loop.toml",
    text="initial = 'write'",
    sha256="0f",
    schemas=b'{"write":{"type":"object"}}',
    parameters=b'{"task":"x"}',
    rerun_of="run_0",
    rerun_from="check",
    initial_values=b'{"work":{"ok":true,"result":"\xe2\x82\xac"},"plan":{"ok":false}}',
)
VALUES = {"work": b'{"ok":true,"result":"\xe2\x82\xac"}', "plan": b'{"ok":false}'}


def claim(journal: Journal, run_id: str, session_id: str = "ses_1") -> None:
    journal.record_claim(run_id, session_id, None, "me", b"{}")


def check(position: WorkflowPosition | None) -> None:
    assert position is not None
    assert (position.record, position.state, position.values) == (WORKFLOW, "check", VALUES)
    assert (position.counts, position.last_number, position.open) == ({}, 0, None)


async def test_a_claim_of_the_session_binds_it_to_the_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_rerun("ses_1", WORKFLOW)
    assert journal.rerun_plan_of("run_1") is None
    claim(journal, "run_other", "ses_other")
    claim(journal, "run_1")
    check(journal.rerun_plan_of("run_1"))
    assert journal.rerun_plan_of("run_other") is None
    await journal.aclose()
    again = Journal(tmp_path)
    other, run = again.recovered.runs
    await again.aclose()
    assert other.workflow is None
    check(run.workflow)


async def test_a_later_run_of_the_session_is_not_a_repetition(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_rerun("ses_1", WORKFLOW)
    claim(journal, "run_1")
    journal.record_run_end("run_1")
    claim(journal, "run_2")
    assert (journal.rerun_plan_of("run_1"), journal.rerun_plan_of("run_2")) == (None, None)
    await journal.aclose()
    again = Journal(tmp_path)
    (run,) = again.recovered.runs
    claim(again, "run_3")
    assert again.rerun_plan_of("run_3") is None
    await again.aclose()
    assert run.workflow is None


async def test_the_next_process_claims_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_rerun("ses_1", WORKFLOW)
    await journal.aclose()
    again = Journal(tmp_path)
    claim(again, "run_1")
    check(again.rerun_plan_of("run_1"))
    await again.aclose()


async def test_claim_and_workflow_are_one_commit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, flush_within_s=3600.0)
    journal.record_rerun("ses_1", WORKFLOW)
    await journal.flush()
    claim(journal, "run_1")
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as connection:
        assert recover(connection).runs == ()
        await journal.flush()
        (run,) = recover(connection).runs
        assert connection.execute("SELECT count(*) FROM reruns").fetchone() == (0,)
    check(run.workflow)
    await journal.aclose()


async def test_the_latest_value_is_the_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_rerun("ses_1", WORKFLOW)
    claim(journal, "run_1")
    for number, name in enumerate(("z", "a", "work", "z"), 1):
        journal.record_visit("run_1", number, "check", None)
        journal.record_visit_end("run_1", number, "done", "check", name, b'{"n":%d}' % number, None)
    await journal.aclose()
    again = Journal(tmp_path)
    await again.aclose()
    position = again.recovered.runs[0].workflow
    assert position is not None
    assert list(position.values) == ["plan", "a", "work", "z"]
    assert (position.values["z"], position.values["work"]) == (b'{"n":4}', b'{"n":3}')


async def test_a_deleted_one_is_bound_to_no_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record_rerun("ses_1", WORKFLOW)
    journal.delete_rerun("ses_1")
    claim(journal, "run_1")
    assert journal.rerun_plan_of("run_1") is None
    await journal.aclose()
    again = Journal(tmp_path)
    claim(again, "run_2")
    assert again.rerun_plan_of("run_2") is None
    await again.aclose()


@pytest.mark.parametrize("table", ["reruns SET workflow", "workflows SET initial_values"])
async def test_a_damaged_one_is_an_error_that_names_the_journal(tmp_path: Path, table: str) -> None:
    journal = Journal(tmp_path)
    for session_id in ("ses_1", "ses_2"):
        journal.record_rerun(session_id, WORKFLOW)
    claim(journal, "run_1")
    await journal.aclose()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute(f"UPDATE {table} = x'ff00'")
    with pytest.raises(UsageError, match=rf"{tmp_path}/journal.sqlite: cannot be read as a journal: .*: move it away"):
        Journal(tmp_path)
