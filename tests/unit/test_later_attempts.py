"""A runner may lose a run and get it again: each attempt ends before the next one begins."""

import asyncio

import msgspec
import pytest

from fsm_runner.coordinator_client.api import Polled
from fsm_runner.coordinator_client.errors import RunReassigned, Unreachable
from fsm_runner.reporting import messages
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from tests.support.fake_api import ME, FakeApi
from tests.support.polling import RUN, PollingRunner, polling_runner
from tests.support.virtual_time import in_virtual_time

AGAIN = msgspec.structs.replace(RUN, attempt=2)


def steps(runner: PollingRunner) -> list[str]:
    return [step.target for step in runner.record.steps if step.subject == RUN.run_id]


BEGUN = ["claimed", "preparing_workspace", "executing"]


@in_virtual_time
async def test_a_later_attempt_begins_when_the_earlier_one_has_ended() -> None:
    api = FakeApi()
    async with polling_runner(api) as runner:
        runner.runs.start(RUN, ME)
        await asyncio.sleep(1)
        assert not runner.runs.start(AGAIN, ME)
        await asyncio.sleep(1)
        assert steps(runner) == [*BEGUN, "abandoning", "superseded", *BEGUN]
        assert runner.executor.assignments[RUN.run_id].run.attempt == 2
        assert api.reported == ["started", "started"]
        runner.runs.stop_run(RUN.run_id, "the test ends it")
        await asyncio.sleep(1)
    assert api.reported == ["started", "started", "stopped"]


@in_virtual_time
async def test_a_refusal_between_two_attempts_does_not_concern_the_later_one() -> None:
    api = FakeApi()
    put: list[DeliveryFuture] = []

    async def last_words(_: SessionRegistry, session_id: str) -> None:
        """The executor of the session sends an event before it ends."""
        api.answers_in_turn.append(RunReassigned("409", 2))
        put.append(runner.outbox.put(session_id, messages.event(session_id, b"{}", RUN)))
        await put[0]
        api.answers_in_turn.clear()  # an event that is refused here is not sent

    async with polling_runner(api) as runner:
        runner.runs.start(RUN, ME)
        await asyncio.sleep(1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(SessionRegistry, "wait_until_abandoned", last_words)
            runner.runs.start(AGAIN, ME)
            await asyncio.sleep(1)
        assert isinstance(put[0].result(), RunReassigned)
        assert api.reported == ["started", "started"]


@in_virtual_time
async def test_a_claim_that_another_runner_has_overtaken_is_not_begun() -> None:
    async with polling_runner(FakeApi()) as runner:
        runner.runs.start(RUN, ME)
        await asyncio.sleep(1)
        runner.outbox.on_reassigned(RUN.session_id, RUN.run_id, RunReassigned("409", 3))
        assert not runner.runs.start(AGAIN, ME)
        await asyncio.sleep(1)
        assert steps(runner) == [*BEGUN, "abandoning", "superseded"]


@in_virtual_time
async def test_a_report_that_is_refused_ends_quietly_and_the_run_may_come_again() -> None:
    api = FakeApi()
    async with polling_runner(api) as runner:
        runner.runs.start(RUN, ME)
        await asyncio.sleep(1)
        api.answers_in_turn.append(RunReassigned("409", 2))
        runner.runs.stop_session(RUN.session_id, "the coordinator asks for it")
        await asyncio.sleep(1)
        assert steps(runner)[-3:] == ["reporting", "abandoning", "superseded"]
        assert runner.record.reports == {}
        assert not runner.runs.resend_final_report(RUN.run_id)
        assert runner.runs.start(AGAIN, ME)
        await asyncio.sleep(1)
        assert runner.executor.begun == [RUN.run_id] * 2


@in_virtual_time
async def test_a_report_about_a_run_that_is_not_active_is_not_repeated_after_a_refusal() -> None:
    api = FakeApi()
    api.answers_in_turn += [None, RunReassigned("409", 2)]  # to the look-up, and to the report
    async with polling_runner(api) as runner:
        runner.runs.fail(RUN.run_id, ME, "lost")
        await asyncio.sleep(1)
        assert not runner.runs.resend_final_report(RUN.run_id)
        assert runner.runs.start(AGAIN, ME)
        await asyncio.sleep(1)
    assert "failed" not in api.reported


@in_virtual_time
async def test_a_lost_claim_of_a_later_attempt_is_started() -> None:
    listed = msgspec.structs.replace(AGAIN, status="claimed", runner_id=ME)
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.claim_answers = [[], [listed], [listed], [listed]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(100)
        assert steps(runner) == [*BEGUN, "abandoning", "superseded", *BEGUN]
    assert api.reported == ["started", "started"]
