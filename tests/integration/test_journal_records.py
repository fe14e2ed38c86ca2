"""Records are found again when the journal is opened again."""

import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from fsm_runner.journal.journal import Journal
from fsm_runner.journal.limits import RECOVERED_CONTENT_BYTES
from fsm_runner.journal.records import EndedRun, OpenRun, OpenSession, Recovered, Report, StoredMessage, Transition

NOTHING = Recovered(runs=(), sessions=(), messages=(), ended=())
REPORT = Report("/runner/runs/run_1/completed", b'{"runner_id": "lnch_1"}')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "0123"


@asynccontextmanager
async def opened(folder: Path | None) -> AsyncIterator[Journal]:
    journal = Journal(folder)
    try:
        yield journal
    finally:
        await journal.aclose()


async def recovered(folder: Path) -> Recovered:
    async with opened(folder) as journal:
        return journal.recovered


def claim(journal: Journal, run_id: str, run: bytes = b"{}") -> None:
    journal.record_claim(run_id, "ses_1", "agent", "lnch_1", run)


def step(journal: Journal, subject: str, target: str, outcome: str | None = None, reason: str = "") -> None:
    journal.record_transition(
        Transition("run" if subject.startswith("run") else "session", subject, "event", "it", target, outcome, reason)
    )


async def test_a_new_journal_holds_nothing(folder: Path) -> None:
    assert await recovered(folder) == NOTHING
    assert await recovered(folder) == NOTHING


async def test_a_claimed_run_is_open(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1", b'{"run_id": "run_1"}')
    assert (await recovered(folder)).runs == (
        OpenRun(
            run=b'{"run_id": "run_1"}',
            run_id="run_1",
            session_id="ses_1",
            runner_id="lnch_1",
            state="",
            outcome=None,
            failure="",
            report=None,
            interruptions=0,
        ),
    )


async def test_open_runs_come_in_the_order_of_their_claims(folder: Path) -> None:
    names = ["run_c", "run_a", "run_d", "run_b"]
    async with opened(folder) as journal:
        for name in names[:3]:
            claim(journal, name)
    async with opened(folder) as journal:
        claim(journal, names[3])
    assert [run.run_id for run in (await recovered(folder)).runs] == names


async def test_a_run_that_is_claimed_again_stays_as_it_was(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1", b"first")
        claim(journal, "run_1", b"second")
    async with opened(folder) as journal:
        claim(journal, "run_1", b"third")
    assert [run.run for run in (await recovered(folder)).runs] == [b"first"]


async def test_the_state_of_a_run_is_the_target_of_its_last_transition(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1")
        claim(journal, "run_2")
        step(journal, "run_1", "executing")
        step(journal, "run_2", "claimed")
        step(journal, "run_1", "reporting", "completed")
    first, second = (await recovered(folder)).runs
    assert (first.state, first.outcome) == ("reporting", "completed")
    assert (second.state, second.outcome) == ("claimed", None)


async def test_the_failure_of_a_run_is_the_reason_of_its_first_failed_transition(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1")
        step(journal, "run_1", "executing", None, "not this")
        step(journal, "run_1", "stopping", "failed", "time is up")
        step(journal, "run_1", "reporting", "failed", "it has ended")
        claim(journal, "run_2")
        step(journal, "run_2", "stopping", "failed", "")
        step(journal, "run_2", "reporting", "failed", "not this")
    assert [run.failure for run in (await recovered(folder)).runs] == ["time is up", ""]


async def test_interruptions_of_a_run_are_counted(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1")
        for event in ("interrupted", "accepted", "interrupted"):
            journal.record_transition(Transition("run", "run_1", event, "executing", "claimed", None, ""))
    assert [run.interruptions for run in (await recovered(folder)).runs] == [2]


async def test_a_reported_run_keeps_its_report_until_it_ends(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1")
        journal.record_report("run_1", REPORT)
    assert [run.report for run in (await recovered(folder)).runs] == [REPORT]
    async with opened(folder) as journal:
        journal.record_run_end("run_1")
    assert await recovered(folder) == Recovered(runs=(), sessions=(), messages=(), ended=(EndedRun("run_1", REPORT),))


async def test_the_claim_is_deleted_when_the_run_ends(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1", b"a secret parameter")
        journal.record_run_end("run_1")
    assert b"a secret parameter" not in (folder / "journal.sqlite").read_bytes()
    assert await recovered(folder) == NOTHING


async def test_a_run_that_was_reported_is_not_opened_by_a_further_claim(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1")
        journal.record_report("run_1", REPORT)
        journal.record_run_end("run_1")
    async with opened(folder) as journal:
        claim(journal, "run_1")
        journal.record_report("run_1", Report("/other", b""))
    assert await recovered(folder) == Recovered(runs=(), sessions=(), messages=(), ended=(EndedRun("run_1", REPORT),))


async def test_the_latest_thousand_ended_runs_are_known_the_oldest_first(folder: Path) -> None:
    names = [f"run_{number}" for number in range(1_010)]
    async with opened(folder) as journal:
        for name in reversed(names):
            claim(journal, name)
        for name in names:
            journal.record_report(name, REPORT)
            journal.record_run_end(name)
    assert [run.run_id for run in (await recovered(folder)).ended] == names[10:]


async def test_a_session_is_open_until_it_has_ended(folder: Path) -> None:
    async with opened(folder) as journal:
        journal.record_session_start("ses_1", "lnch_1", b"its run")
        journal.record_session_start("ses_2", "lnch_1", b"{}")
        step(journal, "ses_1", "busy")
        step(journal, "ses_1", "stopping", "stopped")
        journal.record_session_end("ses_2")
    assert (await recovered(folder)).sessions == (
        OpenSession(session_id="ses_1", run=b"its run", runner_id="lnch_1", state="stopping", outcome="stopped"),
    )


async def test_a_session_that_starts_again_has_nothing_of_its_earlier_life(folder: Path) -> None:
    async with opened(folder) as journal:
        journal.record_session_start("ses_1", "lnch_1", b"first")
        step(journal, "ses_1", "ended", "finished")
        journal.record_session_end("ses_1")
        journal.record_session_start("ses_1", "lnch_1", b"second")
    assert (await recovered(folder)).sessions == (
        OpenSession(session_id="ses_1", run=b"second", runner_id="lnch_1", state="", outcome=None),
    )
    async with opened(folder) as journal:
        step(journal, "ses_1", "starting")
    assert [session.state for session in (await recovered(folder)).sessions] == ["starting"]


async def test_messages_are_stored_in_order_until_they_are_deleted(folder: Path) -> None:
    async with opened(folder) as journal:
        ids = [journal.store_message("ses_1", content) for content in (b"one", b"two", b"three")]
        await journal.flush()
        journal.delete_message(ids[1])
    one, _, three = ids
    assert (await recovered(folder)).messages == (
        StoredMessage(one, "ses_1", b"one"),
        StoredMessage(three, "ses_1", b"three"),
    )


async def test_a_long_message_is_read_on_demand(folder: Path) -> None:
    longest, longer = bytes(RECOVERED_CONTENT_BYTES), bytes(RECOVERED_CONTENT_BYTES + 1)
    async with opened(folder) as journal:
        first, second = (journal.store_message("ses_1", content) for content in (longest, longer))
    async with opened(folder) as journal:
        assert journal.take_recovered().messages == (
            StoredMessage(first, "ses_1", longest),
            StoredMessage(second, "ses_1", None, len(longer)),
        )
        assert await journal.message(second) == longer
        assert journal.take_recovered().messages == ()


async def test_message_ids_rise_over_restarts_even_if_all_messages_are_deleted(folder: Path) -> None:
    async with opened(folder) as journal:
        first = journal.store_message("ses_1", b"one")
        await journal.flush()
        journal.delete_message(first)
    async with opened(folder) as journal:
        assert journal.store_message("ses_1", b"two") > first


async def test_a_message_can_be_read_back_before_and_after_it_is_on_disk(folder: Path) -> None:
    async with opened(folder) as journal:
        put = journal.store_message("ses_1", b"content")
        assert await journal.message(put) == b"content"
        await journal.flush()
        assert await journal.message(put) == b"content"
        journal.delete_message(put)
        await journal.flush()
        with pytest.raises(KeyError):
            await journal.message(put)


async def test_a_transition_has_its_number_and_its_times(folder: Path) -> None:
    async with opened(folder) as journal:
        journal.record_transition(Transition("runner", "lnch_1", "registered", "registering", "online", None, "why"))
        journal.record_transition(
            Transition("runner", "lnch_1", "drain_requested", "online", "draining", "stopped", "", provisional=True)
        )
    async with opened(folder) as journal:
        journal.record_transition(Transition("runner", "lnch_1", "registered", None, "online", None, ""))
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection:
        rows = connection.execute("SELECT * FROM transitions ORDER BY seq").fetchall()
    assert [row[0] for row in rows] == [1, 2, 3]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row[1]) for row in rows)
    assert rows[0][1] <= rows[1][1]
    assert rows[0][2] <= rows[1][2]
    assert rows[0][3] == rows[1][3] != rows[2][3]
    assert [row[4:] for row in rows] == [
        ("runner", "lnch_1", "registered", "registering", "online", None, "why", 0),
        ("runner", "lnch_1", "drain_requested", "online", "draining", "stopped", "", 1),
        ("runner", "lnch_1", "registered", None, "online", None, "", 0),
    ]


NOTES: dict[str, Callable[[Journal, str], object]] = {
    "run": lambda journal, text: journal.record_claim(text, text, text, text, b""),
    "report": lambda journal, text: journal.record_report(text, Report(text, b"")),
    "end": lambda journal, text: journal.record_run_end(text),
    "transition": lambda journal, text: journal.record_transition(Transition(text, text, text, text, text, text, text)),
    "session": lambda journal, text: journal.record_session_start(text, text, b""),
    "session end": lambda journal, text: journal.record_session_end(text),
    "message": lambda journal, text: journal.store_message(text, b""),
}


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\0", "'; DROP TABLE runs; --", "ü" * 100_000])
@pytest.mark.parametrize("note", NOTES)
async def test_no_text_prevents_the_other_records_from_being_written(folder: Path, note: str, text: str) -> None:
    async with opened(folder) as journal:
        NOTES[note](journal, text)
        claim(journal, "run_other")
        await journal.flush()
    assert (await recovered(folder)).runs[-1].run_id == "run_other"


async def test_a_text_that_cannot_be_stored_is_shown_by_its_escape(folder: Path) -> None:
    async with opened(folder) as journal:
        claim(journal, "run_1")
        step(journal, "run_1", "reporting", "failed", "no such file: \udcff\n\0ü")
    assert [run.failure for run in (await recovered(folder)).runs] == ["no such file: \\udcff\n\0ü"]


async def test_a_journal_in_memory_leaves_nothing() -> None:
    async with opened(None) as journal:
        claim(journal, "run_1")
        put = journal.store_message("ses_1", b"content")
        await journal.flush()
        assert journal.path is None
        assert await journal.message(put) == b"content"
    async with opened(None) as journal:
        assert journal.recovered == NOTHING
