"""Journals of earlier releases are migrated, and their open runs and sessions are resumed.

Runners of the releases with journal versions 2 to 4 wrote the files in `tests/fixtures/journal_version_…`. Each was
killed when a run or a session had entered the state that names the file.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.migration import CurrentNames
from fsm_runner.journal.reader import Reader, Step
from fsm_runner.journal.records import TransitionRow
from fsm_runner.journal.schema import SCHEMA_VERSION
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.recovery import Recovery
from tests.support.fake_api import FakeApi
from tests.support.polling import PROJECT_DIR, EndlessExecutor

FIXTURES = Path(__file__).parents[1] / "fixtures"
MACHINES = {name: load_machine(name) for name in ("run", "session", "runner")}
AS_VERSION_1 = "ALTER TABLE runs DROP COLUMN usage; DROP TABLE processes; PRAGMA user_version=1"


class Fixture(NamedTuple):
    name: str
    version: int

    @property
    def statements(self) -> str:
        return (FIXTURES / f"journal_version_{self.version}" / f"{self.name}.sql").read_text()

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}"


class Expected(NamedTuple):
    state: str
    """The state of the run or session that names the file, after the migration."""
    delivered: list[str]
    """The messages of a coordinator that still holds the run as running."""
    provisional: bool = False


EXPECTED = {
    "run_claimed": Expected("claimed", ["failed"]),
    "run_preparing": Expected("preparing_workspace", ["failed"]),
    "run_executing": Expected("executing", ["failed"]),
    "run_stopping": Expected("stopping", ["stopped"]),
    "run_stopping_with_usage": Expected("stopping", ["stopped"]),
    "run_waiting_for_limit": Expected("waiting_for_limit", ["stopped"]),
    "run_checking_result": Expected("checking_result", ["failed"]),
    "run_recovering": Expected("recovering", ["failed"]),
    "run_reporting_completed": Expected("reporting", ["bind", "events", "completed"]),
    "run_reporting_failed": Expected("reporting", ["bind", "events", "failed"]),
    "run_report_sent": Expected("reporting", ["completed"]),
    "run_reporting_interrupted": Expected("reporting", ["failed"], provisional=True),
    "run_interrupted_report_sent": Expected("reporting", ["failed"], provisional=True),
    "session_starting": Expected("starting", ["failed"]),
    "session_busy": Expected("busy", ["failed"]),
    "session_idle": Expected("idle", ["failed", "status"]),
    "session_stopping_in_turn": Expected("stopping_turn", ["stopped"]),
    "session_stopping_between_turns": Expected("stopping_idle", ["status"]),
    "session_reporting_after_turn": Expected("failed", ["failed"]),
    "session_reporting_between_turns": Expected("reporting", ["completed", "status"]),
}
OPEN = [
    Fixture(name, version)
    for version in (2, 3, 4)
    for name in EXPECTED
    if (FIXTURES / f"journal_version_{version}" / f"{name}.sql").exists()
]
WAITING = "run_waiting_for_limit"
USAGES = {
    "run_stopping_with_usage": b'{"input_tokens":1200,"output_tokens":340,"cost_usd":0.0123,"turns":3}',
}
PROVISIONAL = [fixture for fixture in OPEN if EXPECTED[fixture.name].provisional]


def write_journal(folder: Path, fixture: Fixture, *statements: str) -> Path:
    folder.mkdir()
    path = folder / "journal.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(fixture.statements)
        for statement in statements:
            connection.executescript(statement)
    return path


async def resume(folder: Path, api: FakeApi) -> None:
    """Resume what is in the journal, and stop the runs that wait, until nothing is left."""
    client = CoordinatorClient(api)  # type: ignore[arg-type] # it has the methods that are called
    journal = Journal(folder)
    waiting = [run.run_id for run in journal.recovered.runs if run.wait is not None]
    outbox = Outbox(MessageSender(client), journal)
    reporting = ReportingContext(outbox=outbox, clock=EventClock(), hostname="host", executor_profile="fake")
    sessions = SessionRegistry(
        SessionContext(
            machine=MACHINES["session"],
            reporting=reporting,
            record=journal,
            run_timeout_s=None,
            session_idle_timeout_s=None,
        )
    )
    context = RunContext(
        machine=MACHINES["run"],
        executor=EndlessExecutor(),
        reporting=reporting,
        record=journal,
        look_up=client.look_up_run,
        project_dir=PROJECT_DIR,
        runner_values=lambda _: {},
        run_timeout_s=None,
        retry_interrupted=False,
        observer=Observer(),
    )
    runs = RunRegistry(context, sessions)
    try:
        async with asyncio.timeout(60):
            await Recovery(journal.take_recovered, outbox, runs, sessions, lambda: 0).carry_out()
            for run_id in waiting:
                runs.stop_run(run_id, "the test stops it")
            await runs.wait_until_empty()
            await sessions.close("the test is over")
    finally:
        await runs.aclose()
        await sessions.aclose()
        await outbox.aclose()
        await journal.aclose()


async def left_in(folder: Path) -> list[object]:
    journal = Journal(folder)
    try:
        return [*journal.recovered.runs, *journal.recovered.sessions, *journal.recovered.messages]
    finally:
        await journal.aclose()


def steps_in(path: Path) -> list[Step]:
    with closing(sqlite3.connect(path)) as connection:
        subjects = connection.execute("SELECT DISTINCT machine, subject FROM transitions ORDER BY seq").fetchall()
    with closing(Reader(path)) as reader:
        read = {"run": reader.steps_of_run, "session": reader.steps_of_session}
        own = [step for machine, subject in subjects if machine in read for step in read[machine](subject)]
        return [*own, *reader.steps_of_runner(100)]


def test_each_fixture_is_expected_to_come_to_something() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in FIXTURES.glob("journal_version_*/*.sql")}
    assert files == {f"journal_version_{fixture.version}/{fixture.name}" for fixture in OPEN}
    assert {fixture.name for fixture in OPEN} == set(EXPECTED)


@pytest.mark.parametrize(
    ("fixture", "statements"),
    [(fixture, ()) for fixture in OPEN] + [(fixture, (AS_VERSION_1,)) for fixture in OPEN if fixture.version == 2],
    ids=str,
)
async def test_an_open_run_or_session_of_an_earlier_release_is_resumed(
    tmp_path: Path, fixture: Fixture, statements: tuple[str, ...]
) -> None:
    expected = EXPECTED[fixture.name]
    path = write_journal(tmp_path / "0123", fixture, *statements)
    journal = Journal(path.parent)
    recovered = journal.recovered
    await journal.aclose()
    found = recovered.runs if fixture.name.startswith("run") else recovered.sessions
    assert [each.state for each in found] == [expected.state]
    for run in recovered.runs:
        assert run.usage == USAGES.get(fixture.name)
        assert (run.wait is not None) == (fixture.name == WAITING)
        assert (run.workspace, run.workflow) == (None, None)
    assert [run.provisional for run in recovered.runs] == [expected.provisional] * len(recovered.runs)
    api = FakeApi()
    await resume(path.parent, api)
    delivered = [message.rpartition("/")[2] for message in api.delivered]
    assert [name for name in delivered if name != "metadata"] == expected.delivered
    assert await left_in(path.parent) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


@pytest.mark.parametrize("fixture", PROVISIONAL, ids=str)
async def test_an_outcome_that_was_decided_after_a_crash_does_not_replace_that_of_the_coordinator(
    tmp_path: Path, fixture: Fixture
) -> None:
    path = write_journal(tmp_path / "0123", fixture)
    with closing(sqlite3.connect(path)) as connection:
        ((run_id,),) = connection.execute("SELECT run_id FROM runs").fetchall()
    api = FakeApi()
    api.states[run_id] = wire.RunState(status="completed")
    await resume(path.parent, api)
    assert api.delivered == []
    assert await left_in(path.parent) == []


@pytest.mark.parametrize("fixture", OPEN, ids=str)
async def test_history_shows_an_old_journal_as_it_shows_the_migrated_one(tmp_path: Path, fixture: Fixture) -> None:
    path = write_journal(tmp_path / "0123", fixture)
    before = steps_in(path)
    await Journal(path.parent).aclose()
    after = steps_in(path)
    if fixture.name == "session_reporting_after_turn":  # it has nothing to report, so the migration ends it
        before = [
            msgspec.structs.replace(step, target="failed") if step.target == "reporting" else step for step in before
        ]
    assert before == after
    for step in after:
        states = MACHINES[step.machine].spec.states
        assert step.target in states
        assert step.source is None or step.source in states


def row(machine: str, event: str, source: str | None, target: str) -> TransitionRow:
    return TransitionRow(machine, "subject", event, source, target, None, "", seq=1, at="", monotonic_s=0.0, process="")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("run", "found_settled", "recovering", "settled_elsewhere"), ("found_settled", "recovering", "superseded")),
        (("runner", "coordinator_lost", "online", "cut_off"), ("coordinator_lost", "online", "disconnected")),
        (("runner", "coordinator_answered", "cut_off", "online"), ("coordinator_answered", "disconnected", "online")),
        (("runner", "journal_stuck", "online", "suspended"), ("journal_unwritable", "online", "suspended")),
        (("runner", "journal_unstuck", "suspended", "online"), ("journal_writable", "suspended", "online")),
        (
            ("runner", "hurry_requested", "draining", "stopping_runs"),
            ("stop_now_requested", "draining", "stopping_runs"),
        ),
        (("runner", "begun", None, "recovering"), ("begun", None, "recovering")),
    ],
    ids=str,
)
def test_old_names_have_current_ones(old: tuple[str, str, str | None, str], new: tuple[str, str | None, str]) -> None:
    found = CurrentNames().of(row(*old))
    assert (found.event, found.source, found.target) == new
    states = MACHINES[found.machine].spec.states
    assert found.target in states
