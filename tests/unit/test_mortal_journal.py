"""The journal of tests in virtual time recovers what the real one recovers."""

from pathlib import Path

import pytest

from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import Report, Transition
from tests.support.mortal_journal import Life, MortalJournal, Note, recovered


def whole_life() -> list[Note]:
    """Runs and sessions in all stages, with repetitions and what comes too late."""
    journal = MortalJournal([], Life())
    report = Report("/runner/runs/run_1/failed", b'{"error": "no"}')
    journal.record_transition(Transition("runner", "runner", "begun", None, "recovering", None, ""))
    for number in (1, 2, 3):
        journal.record_claim(f"run_{number}", "ses_1", "echo", "me", b'{"number": %d}' % number)
        journal.record_transition(Transition("run", f"run_{number}", "begun", None, "claimed", None, ""))
    journal.record_claim("run_1", "ses_9", None, "other", b"{}")
    first = journal.store_message("ses_1", b"first")
    journal.store_message("ses_1", b"second")
    journal.record_transition(Transition("run", "run_1", "not_accepted", "claimed", "reporting", "failed", "no"))
    journal.record_transition(Transition("run", "run_1", "interrupted", "reporting", "reporting", "failed", "later"))
    journal.record_report("run_1", Report("/elsewhere", b"{}"))
    journal.record_report("run_1", report)
    journal.delete_message(first)
    journal.record_transition(Transition("run", "run_2", "interrupted", "claimed", "recovering", None, ""))
    journal.record_transition(
        Transition("run", "run_2", "found_open", "recovering", "reporting", "failed", "interrupted", provisional=True)
    )
    journal.record_session_start("ses_1", "me", b'{"number": 1}')
    journal.record_transition(Transition("session", "ses_1", "begun", None, "starting", None, ""))
    journal.record_session_start("ses_2", "me", b'{"number": 2}')
    journal.record_run_end("run_1")
    journal.record_transition(
        Transition("session", "ses_1", "not_started", "starting", "stopping_turn", "failed", "gone")
    )
    journal.record_session_end("ses_1")
    journal.record_session_start("ses_1", "me", b'{"number": 3}')
    journal.record_report("run_3", Report("/runner/runs/run_3/completed", b"{}"))
    journal.record_run_end("run_3")
    journal.record_run_end("run_2")
    journal.store_message("ses_2", b"third")
    return journal.notes


NOTES = whole_life()


@pytest.mark.parametrize("count", range(len(NOTES) + 1))
async def test_it_recovers_the_same_as_the_real_journal(count: int, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    for note in NOTES[:count]:
        getattr(journal, note.method)(*note.arguments)
    await journal.aclose()
    again = Journal.open(tmp_path)
    try:
        assert recovered(NOTES[:count]) == again.recovered
    finally:
        await again.aclose()


async def test_flushed_records_are_never_lost() -> None:
    journal = MortalJournal(NOTES, Life())
    journal.record_run_end("run_8")
    await journal.flush()
    journal.record_run_end("run_9")
    assert [note.arguments for note in journal.left_on_disk(100)[len(NOTES) :]] == [("run_8",)]
    assert [note.arguments for note in journal.left_on_disk(0)[len(NOTES) :]] == [("run_8",), ("run_9",)]


async def test_ids_of_messages_go_on_after_those_of_the_past() -> None:
    earlier = MortalJournal([], Life())
    numbers = [earlier.store_message("ses_1", b"") for _ in range(3)]
    earlier.delete_message(numbers[-1])
    assert MortalJournal(earlier.notes, Life()).store_message("ses_1", b"") > numbers[-1]


async def test_a_dead_process_writes_nothing_down() -> None:
    life = Life(dies_at=2)
    journal = MortalJournal([], life)
    dead: list[bool] = []
    for number in range(3):
        journal.record_run_end(f"run_{number}")
        dead.append(life.is_dead)
    journal.store_message("ses_1", b"")
    assert dead == [False, True, True]
    assert [each.arguments for each in journal.notes] == [("run_0",), ("run_1",)]
