"""The end of a run of an earlier process, and the reports to the coordinator."""

import asyncio
import tempfile
from typing import NamedTuple, NoReturn

import msgspec
import pytest

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, NoConnection, NotRegistered, Refused, Unreachable
from fsm_runner.executors.interface import Assignment
from fsm_runner.journal.journal import JournalUnwritable
from fsm_runner.journal.records import OpenRun, Report
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import OPEN_RUN_STATUSES, CompletedSession, StopSignal
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.actor import Position
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run import INTERRUPTIONS_LIMIT, RunActor
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.util.tasks import wait_forever
from tests.support.fake_api import FakeApi
from tests.support.limits import no_provider_limits
from tests.support.positions import positions
from tests.support.record import InstantRecord
from tests.support.virtual_time import run_virtually

MACHINE = load_machine("run")
RUN = wire.Run(run_id="run_1", session_id="ses_1")
TERMINAL = ("completed", "failed", "stopped")
STATUSES = ("pending", "claimed", "running", "stopping", *TERMINAL, "unknown")
FAILURE = "exit code 1"
A_DAY_S = 86_400


POSITIONS = positions(MACHINE.spec)
UNDECIDED = [position for position in POSITIONS if position.outcome is None]
ABANDONED = [position for position in POSITIONS if MACHINE.has_tag(position.state, "abandoned")]
DECIDED = [position for position in POSITIONS if position.outcome is not None and position not in ABANDONED]


def named(value: object) -> str:
    return "-".join(str(each) for each in value) if isinstance(value, Position) else str(value)


def api_with_run(status: str, look_up_faults: tuple[CoordinatorError, ...] = (), api: FakeApi | None = None) -> FakeApi:
    """Return an API that holds one run, and whose first look-ups fail."""
    api = api or FakeApi()
    error = FAILURE if status == "failed" else None
    is_known = status != "unknown"
    api.states[RUN.run_id] = wire.RunState(status=status, error=error) if is_known else Refused("404", 404)
    api.look_up_faults.extend(look_up_faults)
    return api


class Work:
    process = None

    async def wait(self) -> CompletedSession:
        return "finished"

    async def stop(self) -> StopSignal:
        return "SIGTERM"

    async def aclose(self) -> None: ...


class Executor:
    def __init__(self) -> None:
        self.begun = 0

    def accept(self, run: wire.Run) -> None: ...

    def starts_process(self, run: wire.Run) -> bool:
        return True

    def can_continue(self, session_id: str) -> bool:
        return True

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        await wait_forever()

    async def end_session(self, session_id: str) -> None:
        pass

    async def prepare(self, assignment: Assignment) -> None: ...

    async def start(self, assignment: Assignment, session: SessionChannel) -> Work:
        self.begun += 1
        return Work()


class Life(NamedTuple):
    actor: RunActor
    api: FakeApi
    executor: Executor
    record: InstantRecord
    took_s: float


def lived(
    api: FakeApi, recovered: OpenRun | None, *, retry: bool = False, unwritable: bool = False, stop: bool = False
) -> Life:
    executor, record = Executor(), InstantRecord()
    if unwritable:
        record.unwritable = JournalUnwritable(None, "database or disk is full")

    async def live() -> Life:
        client = CoordinatorClient(api)  # type: ignore[arg-type] # it takes the API's methods as they come
        outbox = Outbox(MessageSender(client), NoMessageStore())
        context = RunContext(
            machine=MACHINE,
            executor=executor,
            reporting=ReportingContext(outbox=outbox, clock=EventClock(), hostname="h", executor_profile="p"),
            record=record,
            look_up=client.look_up_run,
            project_dir=tempfile.gettempdir(),
            runner_values=lambda _: {},
            run_timeout_s=None,
            retry_interrupted=retry,
            observer=Observer(),
        )
        actor = RunActor(RUN, "me", context, no_provider_limits(), recovered)
        if stop:
            actor.post("stop_requested", "the operator")
        await actor.live()
        await outbox.aclose()
        return Life(actor, api, executor, record, asyncio.get_running_loop().time())

    return run_virtually(live)


def left(position: Position, *, interruptions: int = 0, has_report: bool = False) -> OpenRun:
    """Return the journal's record of a run in this position."""
    body = msgspec.json.encode({"runner_id": "me", "error": FAILURE})
    return OpenRun(
        run=msgspec.json.encode(RUN),
        run_id=RUN.run_id,
        session_id=RUN.session_id,
        runner_id="me",
        state=position.state,
        outcome=position.outcome,
        failure=FAILURE if position.outcome == "failed" else "",
        provisional=position.provisional,
        report=Report(f"/runner/runs/run_1/{position.outcome}", body) if has_report else None,
        interruptions=interruptions,
    )


def expected(status: str, *, again: bool) -> tuple[str, list[str]]:
    """Return the final state and the reports of a run that had no outcome."""
    if status == "stopping":
        return "stopped", ["stopped"]
    if status not in OPEN_RUN_STATUSES:
        return "superseded", []
    return ("completed", ["started", "completed"]) if again else ("failed", ["failed"])


@pytest.mark.parametrize("interruptions", [0, INTERRUPTIONS_LIMIT - 1, INTERRUPTIONS_LIMIT])
@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("position", UNDECIDED, ids=named)
def test_a_run_without_an_outcome_ends_as_the_coordinator_has_it(
    position: Position, status: str, retry: bool, interruptions: int
) -> None:
    life = lived(api_with_run(status), left(position, interruptions=interruptions), retry=retry)
    again = retry and interruptions < INTERRUPTIONS_LIMIT
    assert (life.actor.state, life.api.reported) == expected(status, again=again)
    assert life.executor.begun == life.api.reported.count("started")
    assert life.record.last_position(RUN.run_id) == (life.actor.state, life.actor.model.outcome)
    assert life.record.ended_runs == [RUN.run_id]
    assert life.record.claims == [], "it was claimed by the earlier process"
    assert life.record.steps[0].event == "interrupted"


@pytest.mark.parametrize("position", UNDECIDED, ids=named)
def test_an_interrupted_run_fails_with_that_reason(position: Position) -> None:
    life = lived(api_with_run("running"), left(position))
    error = msgspec.json.decode(life.api.bodies[-1])["error"]
    assert error == life.actor.failure
    assert error.startswith("interrupted: ")
    assert error.endswith(position.state.replace("_", " "))
    report = life.record.reports[RUN.run_id]
    assert (report.path, report.body) == ("/runner/runs/run_1/failed", life.api.bodies[-1])


@pytest.mark.parametrize(
    ("retry", "interruptions", "said"),
    [
        (False, INTERRUPTIONS_LIMIT, "executing"),
        (True, INTERRUPTIONS_LIMIT, "executing, 4 times; it is not executed again"),
    ],
)
def test_the_reason_says_that_a_run_was_interrupted_too_often(retry: bool, interruptions: int, said: str) -> None:
    life = lived(api_with_run("running"), left(Position("executing", None), interruptions=interruptions), retry=retry)
    assert life.actor.failure == f"interrupted: the runner's process ended while the run was {said}"


@pytest.mark.parametrize("has_report", [False, True])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("position", DECIDED, ids=named)
def test_an_outcome_is_reported_unless_the_coordinator_has_it_already(
    position: Position, status: str, has_report: bool
) -> None:
    """Also if the journal has no report: on a full disk it may have been sent nevertheless."""
    life = lived(api_with_run(status), left(position, has_report=has_report), retry=True)
    assert life.actor.state == position.outcome
    is_known = status == position.outcome or (position.provisional and status in TERMINAL)
    assert life.api.reported == ([] if is_known else [position.outcome])
    assert life.executor.begun == 0
    assert life.record.ended_runs == [RUN.run_id]


@pytest.mark.parametrize("position", DECIDED, ids=named)
def test_a_recorded_report_is_sent_unchanged(position: Position) -> None:
    recovered = left(position, has_report=True)
    assert recovered.report is not None
    life = lived(api_with_run("running"), recovered)
    assert life.api.bodies == [recovered.report.body]


@pytest.mark.parametrize("position", ABANDONED, ids=named)
def test_a_run_that_was_another_runners_is_not_reported(position: Position) -> None:
    life = lived(api_with_run("running"), left(position), retry=True)
    assert (life.actor.state, life.api.exchanges, life.executor.begun) == ("superseded", [], 0)
    assert life.record.ended_runs == [RUN.run_id]


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize(
    "found",
    [
        wire.RunState(status="pending", attempt=2),
        wire.RunState(status="claimed", runner_id="other", attempt=2),
        wire.RunState(status="stopping", runner_id="other"),
    ],
)
@pytest.mark.parametrize("position", UNDECIDED, ids=named)
def test_a_run_that_was_given_to_another_runner_meanwhile_is_not_reported(
    position: Position, found: wire.RunState, retry: bool
) -> None:
    api = FakeApi()
    api.states[RUN.run_id] = found
    life = lived(api, left(position), retry=retry)
    assert (life.actor.state, life.api.reported, life.executor.begun) == ("superseded", [], 0)


@pytest.mark.parametrize(
    "found",
    [
        wire.RunState(status="pending"),
        wire.RunState(status="claimed", runner_id="me", attempt=2),
        wire.RunState(status="running", runner_id="me"),
    ],
)
def test_a_run_that_is_still_this_runners_is_reported(found: wire.RunState) -> None:
    api = FakeApi()
    api.states[RUN.run_id] = found
    assert lived(api, left(Position("executing", None))).api.reported == ["failed"]


def test_there_are_positions_to_try() -> None:
    assert ABANDONED
    assert {position.state for position in POSITIONS} == {
        name for name, state in MACHINE.spec.states.items() if not state.final
    }
    assert {position.outcome for position in DECIDED} == set(TERMINAL)


@pytest.mark.parametrize("position", UNDECIDED, ids=named)
def test_the_look_up_waits_for_an_unreachable_coordinator(position: Position) -> None:
    away = (Unreachable("502"), NoConnection("refused"), NotRegistered("401")) * 3
    life = lived(api_with_run("running", away), left(position))
    assert len(life.api.looked_up) > len(away)
    assert life.actor.state == "failed"
    assert life.api.reported == ["failed"]


def test_the_look_up_ends_after_a_day_and_the_run_is_reported_as_failed() -> None:
    class Away(FakeApi):
        async def run_state(self, run_id: str) -> wire.RunState:
            if asyncio.get_running_loop().time() < A_DAY_S + 10:
                raise Unreachable("502")
            return await super().run_state(run_id)

    life = lived(api_with_run("running", api=Away()), left(UNDECIDED[0]))
    assert life.actor.state == "failed"
    assert A_DAY_S <= life.took_s <= A_DAY_S + 60
    assert life.api.reported == ["failed"]
    assert "not done within the time limit" in life.actor.failure


@pytest.mark.parametrize("position", UNDECIDED, ids=named)
def test_a_run_that_is_stopped_while_it_is_looked_up_is_reported_as_stopped(position: Position) -> None:
    life = lived(api_with_run("running", (Unreachable("502"),) * 100), left(position), retry=True, stop=True)
    assert (life.actor.state, life.api.reported, life.executor.begun) == ("stopped", ["stopped"], 0)


def test_a_run_without_a_recorded_transition_is_resumed_from_the_initial_state() -> None:
    assert lived(api_with_run("claimed"), left(Position("", None))).api.reported == ["failed"]
    assert lived(api_with_run("completed"), left(Position("", None))).actor.state == "superseded"


def test_a_claim_that_cannot_be_recorded_fails_the_run_with_that_reason() -> None:
    life = lived(api_with_run("claimed"), None, unwritable=True)
    assert (life.actor.state, life.api.reported, life.executor.begun) == ("failed", ["failed"], 0)
    error = msgspec.json.decode(life.api.bodies[-1])["error"]
    assert "journal" in error
    assert "cannot be written: database or disk is full" in error


@pytest.mark.parametrize("position", DECIDED, ids=named)
def test_an_end_that_cannot_be_recorded_is_reported_nevertheless(position: Position) -> None:
    life = lived(api_with_run("running"), left(position), unwritable=True)
    assert life.actor.state == position.outcome
    assert life.api.reported == [position.outcome]
