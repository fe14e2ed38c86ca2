"""The model of the journal recovers the same as the real journal."""

from pathlib import Path

import msgspec
import pytest

from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import Report, Transition, WorkflowRecord
from tests.support.crash_model.journal import JournalCall, KillSwitch, ModelJournal, recovered
from tests.support.crash_model.workflow_replay import without_times


def all_calls() -> list[JournalCall]:
    """Return calls for runs and sessions in all states, with repetitions and late calls."""
    journal = ModelJournal([], KillSwitch())
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
    journal.record_usage("run_2", b'{"turns": 1}')
    journal.record_usage("run_2", b'{"turns": 2}')
    journal.record_wait("run_2", b'{"waits": 1}')
    journal.record_wait("run_1", b'{"waits": 1}')
    journal.record_workspace("run_2", b'{"digest": 1}')
    journal.record_workspace("run_1", b'{"digest": 1}')
    record_workflows(journal)
    journal.record_run_end("run_1")
    journal.record_transition(
        Transition("session", "ses_1", "not_started", "starting", "stopping_turn", "failed", "gone")
    )
    journal.record_session_end("ses_1")
    journal.record_session_start("ses_1", "me", b'{"number": 3}')
    journal.record_wait("run_2", None)
    journal.record_wait("run_2", b'{"waits": 2}')
    journal.record_wait("run_3", b'{"waits": 1}')
    journal.record_wait("run_3", None)
    journal.record_report("run_3", Report("/runner/runs/run_3/completed", b"{}"))
    journal.record_run_end("run_3")
    journal.record_run_end("run_2")
    journal.store_message("ses_2", b"third")
    return journal.calls


def record_workflows(journal: ModelJournal | Journal) -> None:
    """Record the workflows of two runs, with repetitions and late calls."""
    workflow = WorkflowRecord(
        name="loop", path="/loop.toml", text="x = 1", sha256="0f", schemas=b"{}", parameters=b'{"n":1}'
    )
    journal.record_workflow("run_2", workflow)
    journal.record_visit("run_2", 1, "write", 12.5)
    journal.record_transition(Transition("workflow", "run_2", "begun", None, "write", None, ""))
    journal.record_visit_progress("run_2", 1, b"1")
    journal.record_visit_progress("run_2", 1, b"2")
    journal.record_visit_interrupted("run_2", 1, 1)
    journal.record_visit_due("run_2", 1, None)
    journal.record_visit_end("run_2", 1, "done", "check", "work", b'{"ok":true}', b'{"turns":1}')
    journal.record_visit_end("run_2", 1, "error", "failed", "work", b'{"ok":false}', None)
    journal.record_visit_progress("run_2", 1, b"3")
    journal.record_visit("run_2", 2, "check", None)
    journal.record_visit_end("run_2", 2, "error", "write", "check", b'{"ok":false}', None)
    journal.record_visit("run_2", 3, "write", 99.0)
    journal.record_visit_end("run_2", 3, "done", "check", "work", b'{"ok":true,"n":2}', b'{"turns":2}')
    journal.record_visit("run_2", 4, "check", None)
    journal.record_visit_progress("run_2", 4, b"4")
    again = msgspec.structs.replace(
        workflow, rerun_of="run_0", rerun_from="check", initial_values=b'{"work":{"ok":true},"plan":{"ok":true}}'
    )
    journal.record_workflow("run_3", again)
    journal.record_visit("run_3", 1, "check", None)
    journal.record_visit_end("run_3", 1, "denied", "completed", "plan", b'{"ok":false}', None)


CALLS = all_calls()


@pytest.mark.parametrize("count", range(len(CALLS) + 1))
async def test_it_recovers_the_same_as_the_real_journal(count: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for call in CALLS[:count]:
        getattr(journal, call.method)(*call.arguments)
    await journal.aclose()
    again = Journal(tmp_path)
    try:
        assert without_times(recovered(CALLS[:count])) == without_times(again.recovered)
    finally:
        await again.aclose()


async def test_a_run_that_is_claimed_anew_has_nothing_of_its_earlier_attempt(tmp_path: Path) -> None:
    model, real = ModelJournal([], KillSwitch()), Journal(tmp_path)
    begun = Transition("run", "run_2", "begun", None, "claimed", None, "")
    for journal in (model, real):
        journal.record_claim("run_2", "ses_1", "echo", "me", b'{"attempt": 1}')
        journal.record_transition(begun)
        journal.record_transition(msgspec.structs.replace(begun, event="interrupted", source="claimed"))
        journal.record_transition(Transition("run", "run_2", "lost", "claimed", "failed", "failed", "why"))
        journal.record_usage("run_2", b'{"turns": 1}')
        journal.record_report("run_2", Report("/completed", b"{}"))
        record_workflows(journal)
        assert await has_run(journal)
        journal.record_report("run_2", None)
        journal.record_run_end("run_2")
        assert not await has_run(journal)
        journal.forget_workflow("run_2")
        journal.record_claim("run_2", "ses_1", "echo", "me", b'{"attempt": 2}')
        journal.record_transition(begun)
        assert await has_run(journal)
    await real.aclose()
    again = Journal(tmp_path)
    try:
        assert without_times(recovered(model.calls)) == without_times(again.recovered)
        (run,) = again.recovered.runs
        found = (run.run, run.state, run.failure, run.interruptions, run.report, run.usage, run.workflow)
        assert found == (b'{"attempt": 2}', "claimed", "", 0, None, None, None)
        assert again.recovered.ended == ()
    finally:
        await again.aclose()


async def has_run(journal: ModelJournal | Journal) -> bool:
    await journal.flush()
    return await journal.has_run("run_2")


async def test_flushed_records_are_never_lost() -> None:
    journal = ModelJournal(CALLS, KillSwitch())
    journal.record_run_end("run_8")
    await journal.flush()
    journal.record_run_end("run_9")
    assert [call.arguments for call in journal.calls_on_disk(100)[len(CALLS) :]] == [("run_8",)]
    assert [call.arguments for call in journal.calls_on_disk(0)[len(CALLS) :]] == [("run_8",), ("run_9",)]


async def test_message_ids_continue_after_those_of_earlier_processes() -> None:
    earlier = ModelJournal([], KillSwitch())
    numbers = [earlier.store_message("ses_1", b"") for _ in range(3)]
    earlier.delete_message(numbers[-1])
    assert ModelJournal(earlier.calls, KillSwitch()).store_message("ses_1", b"") > numbers[-1]


async def test_a_killed_process_records_nothing() -> None:
    kill_switch = KillSwitch(kill_at=2)
    journal = ModelJournal([], kill_switch)
    dead: list[bool] = []
    for number in range(3):
        journal.record_run_end(f"run_{number}")
        dead.append(kill_switch.is_killed)
    journal.store_message("ses_1", b"")
    assert dead == [False, True, True]
    assert [each.arguments for each in journal.calls] == [("run_0",), ("run_1",)]
