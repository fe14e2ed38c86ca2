"""A runner first resumes what an earlier process left: in which order, and with which reports."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.executors.interface import Assignment
from fsm_runner.journal.records import EndedRun, OpenRun, OpenSession, Recovered, Report, StoredMessage
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.runtime.actors.actor import Position
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.recovery import Recovery, check_states
from tests.support.fake_api import ME, FakeApi
from tests.support.logs import log_lines
from tests.support.polling import RUN, TIMES, PollingRunner
from tests.support.positions import positions
from tests.support.virtual_time import in_virtual_time

SESSION = load_machine("session")
SESSION_STATUS = "/runner/sessions/ses_1/status"
JOURNAL = Path("state", "journal.sqlite")
NOTHING = Recovered(runs=(), sessions=(), messages=(), ended=())


class NotSwept(FsmRunnerError):
    pass


@asynccontextmanager
async def successor(api: FakeApi) -> AsyncIterator[PollingRunner]:
    runner = PollingRunner(api, TIMES, None, None)
    try:
        yield runner
    finally:
        await runner.runs.aclose()
        await runner.sessions.aclose()
        await runner.outbox.aclose()
        await runner.scripts.aclose()


def recovery(runner: PollingRunner, recovered: Recovered, killed: int = 0) -> Recovery:
    return Recovery(lambda: recovered, runner.outbox, runner.runs, runner.sessions, lambda: killed)


def open_run(state: str, outcome: str | None = None, run: bytes | None = None, report: Report | None = None) -> OpenRun:
    return OpenRun(
        run=msgspec.json.encode(RUN) if run is None else run,
        run_id=RUN.run_id,
        session_id=RUN.session_id,
        runner_id=ME,
        state=state,
        outcome=outcome,
        failure="",
        report=report,
        interruptions=0,
    )


def stored(number: int, message: OutboundMessage) -> StoredMessage:
    return StoredMessage(number, RUN.session_id, msgspec.msgpack.encode(message))


def open_session(state: str, outcome: str | None = None) -> OpenSession:
    content = msgspec.json.encode(RUN)
    return OpenSession(session_id=RUN.session_id, run=content, runner_id=ME, state=state, outcome=outcome)


@in_virtual_time
async def test_processes_are_killed_before_any_report_and_messages_precede_the_end_of_their_run() -> None:
    api = FakeApi()
    delivered_before_sweep: list[list[str]] = []

    def sweep() -> int:
        delivered_before_sweep.append(list(api.delivered))
        return 2

    recovered = msgspec.structs.replace(
        NOTHING, runs=(open_run("executing"),), messages=(stored(1, messages.event(RUN.session_id, b"{}")),)
    )
    async with successor(api) as runner:
        await Recovery(lambda: recovered, runner.outbox, runner.runs, runner.sessions, sweep).carry_out()
        await runner.runs.wait_until_empty()
    assert delivered_before_sweep == [[]]
    assert api.delivered == ["/sessions/ses_1/events", "/runner/runs/run_1/failed"]


@in_virtual_time
async def test_nothing_is_reported_or_started_while_processes_are_left() -> None:
    api = FakeApi()

    def sweep() -> int:
        raise NotSwept("process 4711 does not end")

    recovered = msgspec.structs.replace(
        NOTHING, runs=(open_run("executing"),), messages=(stored(1, messages.event(RUN.session_id, b"{}")),)
    )
    async with successor(api) as runner:
        with pytest.raises(NotSwept):
            await Recovery(lambda: recovered, runner.outbox, runner.runs, runner.sessions, sweep).carry_out()
        await asyncio.sleep(10)
        assert len(runner.runs) == 0
    assert api.delivered == []


@in_virtual_time
async def test_a_pending_report_is_not_queued_a_second_time() -> None:
    api = FakeApi()
    message = messages.completed(RUN.run_id, ME)
    recovered = msgspec.structs.replace(
        NOTHING,
        runs=(open_run("reporting", "completed", report=Report(message.path, message.body)),),
        messages=(stored(1, message),),
    )
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    api.answers.append(answer)
    async with successor(api) as runner:
        await recovery(runner, recovered).carry_out()
        on_its_way_bytes = runner.outbox.queued_bytes(RUN.session_id)
        await asyncio.sleep(10)
        assert runner.outbox.queued_bytes(RUN.session_id) == on_its_way_bytes > 0
        answer.set_result(None)
        await runner.runs.wait_until_empty()
        assert runner.record.ended_runs == [RUN.run_id]
    assert api.delivered == [message.path]


@pytest.mark.parametrize("status", ["claimed", "completed"])
@in_virtual_time
async def test_a_run_that_an_earlier_process_ended_is_not_executed_when_it_is_handed_out_again(
    status: str,
) -> None:
    api = FakeApi()
    api.states[RUN.run_id] = wire.RunState(status=status)
    message = messages.completed(RUN.run_id, ME)
    ended = EndedRun(RUN.run_id, Report(message.path, message.body))
    async with successor(api) as runner:
        await recovery(runner, msgspec.structs.replace(NOTHING, ended=(ended,))).carry_out()
        assert not runner.runs.start(RUN, ME)
        await runner.runs.wait_until_empty()
        assert runner.executor.begun == []
    assert api.delivered == ([message.path] if status == "claimed" else [])


@in_virtual_time
async def test_a_run_that_cannot_be_decoded_is_failed_and_closed() -> None:
    api = FakeApi()
    async with successor(api) as runner:
        await recovery(runner, msgspec.structs.replace(NOTHING, runs=(open_run("executing", run=b"{"),))).carry_out()
        await runner.runs.wait_until_empty()
        assert runner.record.ended_runs == [RUN.run_id]
    assert api.delivered == ["/runner/runs/run_1/failed"]


POSITIONS = positions(SESSION.spec)
IN_TURN = [each for each in POSITIONS if SESSION.has_tag(each.state, "has_turn")]
ABANDONED = [each for each in POSITIONS if each.state == "abandoning"]
BETWEEN_TURNS = [each for each in POSITIONS if each not in (*IN_TURN, *ABANDONED)]


@pytest.mark.parametrize("position", BETWEEN_TURNS, ids=str)
@in_virtual_time
async def test_a_session_between_turns_is_reported_after_its_runs(position: Position) -> None:
    api, bodies = FakeApi(), list[bytes]()
    deliver = api.deliver

    async def deliver_and_record(path: str, body: bytes, method: str = "POST", **_: object) -> object:
        bodies.append(body)
        return await deliver(path, body, method)

    api.deliver = deliver_and_record  # type: ignore[method-assign,assignment]
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    api.answers.append(answer)  # of the run's report
    async with successor(api) as runner:
        runner.record.open_sessions.append(RUN.session_id)
        runner.record.commit_s = 1.0
        recovered = msgspec.structs.replace(
            NOTHING,
            runs=(open_run("reporting", "completed"),),
            sessions=(open_session(position.state, position.outcome),),
        )
        await recovery(runner, recovered).carry_out()
        await asyncio.sleep(10)
        assert api.delivered == []
        answer.set_result(None)
        await runner.runs.wait_until_empty()
        await runner.sessions.close("the test is over")
        assert runner.record.open_sessions == []
    assert api.delivered == ["/runner/runs/run_1/completed", SESSION_STATUS]
    assert msgspec.json.decode(bodies[-1])["status"] == (position.outcome or "failed")


@pytest.mark.parametrize("position", ABANDONED, ids=str)
@in_virtual_time
async def test_a_session_whose_run_another_runner_had_is_not_reported(position: Position) -> None:
    api = FakeApi()
    async with successor(api) as runner:
        runner.record.open_sessions.append(RUN.session_id)
        sessions = (open_session(position.state, position.outcome),)
        await recovery(runner, msgspec.structs.replace(NOTHING, sessions=sessions)).carry_out()
        await runner.sessions.close("the test is over")
        assert runner.record.open_sessions == []
    assert api.delivered == []


@pytest.mark.parametrize("position", IN_TURN, ids=str)
@pytest.mark.parametrize(("run_state", "outcome"), [("executing", None), ("stopping", "stopped")])
@in_virtual_time
async def test_a_session_in_a_turn_is_reported_by_its_run_alone(
    position: Position, run_state: str, outcome: str | None
) -> None:
    api = FakeApi()
    async with successor(api) as runner:
        runner.record.open_sessions.append(RUN.session_id)
        recovered = msgspec.structs.replace(
            NOTHING,
            runs=(open_run(run_state, outcome),),
            sessions=(open_session(position.state, position.outcome),),
        )
        await recovery(runner, recovered).carry_out()
        await runner.runs.wait_until_empty()
        await runner.sessions.close("the test is over")
        assert runner.record.open_sessions == []
    assert api.delivered == [f"/runner/runs/run_1/{outcome or 'failed'}"]


@in_virtual_time
async def test_a_resumed_session_starts_nothing() -> None:
    """Also if none of its transitions was recorded."""
    async with successor(FakeApi()) as runner:
        runner.record.open_sessions.append(RUN.session_id)
        actor = runner.sessions.resume(Assignment(RUN, "", ME), Position("", None), ())
        await runner.sessions.close("the test is over")
        assert actor.state == "failed"
        assert runner.record.open_sessions == []


@pytest.mark.parametrize("position", [Position("idle", None), Position("reporting", "finished")])
@in_virtual_time
async def test_the_log_says_once_that_the_executor_of_a_resumed_session_is_gone(position: Position) -> None:
    async with successor(FakeApi()) as runner:
        runner.record.open_sessions.append(RUN.session_id)
        with log_lines("INFO") as lines:
            runner.sessions.resume(Assignment(RUN, "", ME), position, ())
            await runner.sessions.close("the test is over")
    assert lines[0] == "ses_1: its executor ended with the earlier runner process"
    (end,) = lines[1:]
    assert re.fullmatch(r"ses_1: (ended|failed) after [0-9.]+ s since it was resumed", end)


@pytest.mark.parametrize(("agent", "named"), [(None, ""), ("say", "agent say, ")])
@in_virtual_time
async def test_the_log_names_the_agent_of_a_claimed_run_if_it_has_one(agent: str | None, named: str) -> None:
    async with successor(FakeApi()) as runner:
        with log_lines("INFO") as lines:
            runner.runs.start(msgspec.structs.replace(RUN, agent_name=agent), ME)
    assert lines[0] == f"run_1: claimed ({named}session ses_1)"


def test_a_state_of_the_journal_that_is_in_no_spec_is_a_usage_error() -> None:
    machines = {name: load_machine(name) for name in ("run", "session")}
    fine = msgspec.structs.replace(
        NOTHING, runs=(open_run(""), open_run("reporting")), sessions=(open_session("idle"),)
    )
    check_states(fine, machines, JOURNAL)
    renamed = msgspec.structs.replace(NOTHING, runs=(open_run("telling"),) * 2, sessions=(open_session("waiting"),))
    with pytest.raises(UsageError) as refused:
        check_states(renamed, machines, JOURNAL)
    of_run, of_session = str(refused.value).splitlines()
    where = f"in which the journal {JOURNAL} has"
    assert f"specs/run.toml has no state 'telling', {where} run run_1: restore the state" in of_run
    assert f"specs/session.toml has no state 'waiting', {where} session ses_1: restore the state" in of_session
