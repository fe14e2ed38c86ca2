"""A run that was claimed, and whose answer was lost, is found and taken up, once."""

import asyncio
import itertools
import math
from collections.abc import Iterator

import pytest

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.coordinator_client.errors import CoordinatorError, NoConnection, Unreachable
from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, RUN_LOOKUP_INTERVAL_S
from fsm_runner.protocol import wire
from fsm_runner.runtime.control.lost_claims import LOST
from tests.support.fake_api import FakeApi, PollAnswer
from tests.support.polling import RUN, STOP, polling_runner
from tests.support.virtual_time import in_virtual_time

HOLD_S = 30
LONG_AFTER_S = 100.0
"""No registration is in doubt any more."""
BLUEPRINT = {"name": "echo"}
OTHER = wire.Run(run_id="run_3", session_id="ses_3")
NAMED = wire.Run(run_id="run_2", session_id="ses_2", agent_name="echo")


def reports(api: FakeApi, run_id: str) -> list[str]:
    return [path.rpartition("/")[2] for path in api.delivered if f"/runs/{run_id}/" in path]


@in_virtual_time
async def test_an_unknown_claim_is_started_after_a_registration() -> None:
    api = FakeApi()
    api.claim_answers = [[RUN]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(0.5)
        assert runner.executor.begun == [RUN.run_id]
        assert runner.runs.is_active(RUN.run_id)
    assert api.calls[:3] == ["claims", "look up", "poll"]
    assert reports(api, RUN.run_id) == ["started"]


@in_virtual_time
async def test_after_a_later_registration_the_held_poll_ends_before_the_runs_are_listed() -> None:
    held: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    api = FakeApi([held])
    api.claim_answers = [[], [RUN]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(20)
        await runner.register_again()
        await asyncio.sleep(5)
        assert runner.executor.begun == []
        held.set_result(Polled())
        await asyncio.sleep(1)
        assert runner.executor.begun == [RUN.run_id]
    assert api.calls[:5] == ["claims", "look up", "poll", "claims", "look up"]


@pytest.mark.parametrize("fault", [Unreachable("reset"), NoConnection("refused")])
@in_virtual_time
async def test_an_unknown_claim_is_started_after_a_poll_that_broke(fault: CoordinatorError) -> None:
    api = FakeApi([fault])
    api.claim_answers = [[], [RUN]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert runner.executor.begun == [RUN.run_id]
    assert api.calls[:5] == ["claims", "look up", "poll", "claims", "look up"]


@in_virtual_time
async def test_a_claim_by_an_abandoned_poll_is_found_while_the_coordinator_may_hold_the_poll() -> None:
    """The next polls are answered each second, so the list can be looked at in between."""
    late_s = LONG_AFTER_S + 20.0
    api = FakeApi(_each_second(Unreachable("reset"), LONG_AFTER_S))

    async def held(runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
        if status != "claimed":
            return []
        api.asked_for_claims_at_s.append(asyncio.get_running_loop().time())
        return [RUN] if api.asked_for_claims_at_s[-1] >= late_s else []

    api.held = held  # type: ignore[method-assign] # the answer depends on the time
    async with polling_runner(api) as runner:
        await asyncio.sleep(late_s - 0.1)
        assert runner.executor.begun == []
        await asyncio.sleep(3)
        assert runner.executor.begun == [RUN.run_id]


def _each_second(fault: CoordinatorError, fault_at_s: float = 0.0) -> Iterator[PollAnswer]:
    """Answers that take a second each, and from that time on one fault among them."""
    loop, has_failed = asyncio.get_running_loop(), False
    while True:
        if not has_failed and loop.time() >= fault_at_s:
            has_failed = True
            yield fault
        else:
            answer: asyncio.Future[Polled] = loop.create_future()
            loop.call_later(1.0, answer.set_result, Polled())
            yield answer


@in_virtual_time
async def test_runs_are_listed_at_most_once_an_interval_and_not_after_the_window() -> None:
    api = FakeApi(_each_second(Unreachable("reset")))
    async with polling_runner(api):
        await asyncio.sleep(200)
    asked = api.asked_for_claims_at_s
    after_the_fault = asked[1:]
    assert all(later - earlier > RUN_LOOKUP_INTERVAL_S - 1e-6 for earlier, later in itertools.pairwise(after_the_fault))
    assert len(after_the_fault) > 10
    assert HOLD_S + POLL_MARGIN_S <= after_the_fault[-1] <= HOLD_S + POLL_MARGIN_S + 5


@in_virtual_time
async def test_a_claim_of_a_run_that_is_active_or_has_ended_is_not_started_again() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.claim_answers = [[], [RUN]]
    api.stop_answers = [[], [STOP]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert reports(api, RUN.run_id) == ["started", "stopped"]
        assert len(runner.runs) == 0
        api.claim_answers = [[RUN]] * 10
        await runner.register_again()
        await asyncio.sleep(1)
    assert runner.executor.begun == [RUN.run_id]
    assert reports(api, RUN.run_id) == ["started", "stopped"]
    assert runner.record.claims == [RUN.run_id]


@in_virtual_time
async def test_an_active_run_does_not_fail_if_the_list_does_not_contain_its_agent() -> None:
    handed_out = wire.Run(run_id="run_2", session_id="ses_2", agent_name="echo", resolved_agent_blueprint=BLUEPRINT)
    api = FakeApi([Polled(run=handed_out), Unreachable("reset")])
    api.claim_answers = [[], [NAMED]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert not api.claim_answers
        assert len(runner.runs) == 1
    assert reports(api, NAMED.run_id) == ["started"]


@in_virtual_time
async def test_an_unreadable_claim_fails_once_and_hides_no_other() -> None:
    api = FakeApi([Unreachable("reset")])
    api.claim_answers = [[UnreadableRun("run_9", "no session"), RUN], [UnreadableRun("run_9", "no session"), RUN]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert runner.executor.begun == [RUN.run_id]
    assert reports(api, "run_9") == ["failed"]


@pytest.mark.parametrize("has_blueprint", [True, False])
@in_virtual_time
async def test_a_claim_whose_agent_does_not_exist_fails_as_lost(has_blueprint: bool) -> None:
    api = FakeApi([Unreachable("reset")])
    listed = wire.Run(
        run_id="run_2",
        session_id="ses_2",
        agent_name="echo",
        resolved_agent_blueprint=BLUEPRINT if has_blueprint else None,
    )
    api.claim_answers = [[listed], [listed]]
    bodies: list[bytes] = []
    deliver = api.deliver

    async def keeping(path: str, body: bytes, method: str = "POST", **_: object) -> object:
        bodies.append(body)
        return await deliver(path, body, method)

    api.deliver = keeping  # type: ignore[method-assign,assignment]
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert runner.executor.begun == (["run_2"] if has_blueprint else [])
    assert reports(api, "run_2") == (["started"] if has_blueprint else ["failed"])
    assert any(LOST.encode() in body for body in bodies) is not has_blueprint


@in_virtual_time
async def test_a_full_runner_starts_no_lost_claim_before_it_has_room() -> None:
    api = FakeApi([Polled(run=RUN)])
    api.claim_answers = [[], [NAMED]]
    async with polling_runner(api, max_runs=1) as runner:
        await asyncio.sleep(0)
        await runner.register_again()
        await asyncio.sleep(10)
        assert runner.executor.begun == [RUN.run_id]
        assert len(api.asked_for_claims_at_s) == 1
        api.claim_answers = [[wire.Run(run_id="run_2", session_id="ses_2")]]
        api.stop_answers = [[STOP]]
        await asyncio.sleep(5)
        assert runner.executor.begun == [RUN.run_id, "run_2"]


@in_virtual_time
async def test_a_leaving_runner_starts_no_lost_claim() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    async with polling_runner(api) as runner:
        await asyncio.sleep(0.01)
        asked = len(api.asked_for_claims_at_s)
        runner.leave()
        api.claim_answers = [[wire.Run(run_id="run_2", session_id="ses_2")]] * 10
        await asyncio.sleep(10)
        assert runner.executor.begun == [RUN.run_id]
        assert len(api.asked_for_claims_at_s) == asked


@in_virtual_time
async def test_a_list_that_is_not_available_is_requested_again() -> None:
    api = FakeApi(_each_second(NoConnection("refused"), LONG_AFTER_S))
    async with polling_runner(api) as runner:
        await asyncio.sleep(LONG_AFTER_S - 1)
        api.claim_answers = [Unreachable("502"), Unreachable("502"), [RUN]]
        await asyncio.sleep(10)
        assert runner.executor.begun == [RUN.run_id]


@in_virtual_time
async def test_a_lost_claim_with_a_stop_request_is_reported_as_stopped() -> None:
    """Only the list of stop requests contains it, so the run would stay open otherwise."""
    api = FakeApi([Unreachable("reset")])
    api.stop_answers = [[], [STOP]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert runner.executor.begun == []
    assert reports(api, RUN.run_id) == ["stopped"]


@in_virtual_time
async def test_a_run_of_an_earlier_process_without_a_record_fails_as_lost() -> None:
    api = FakeApi()
    api.running = [RUN]
    api.states[RUN.run_id] = wire.RunState(status="running")
    async with polling_runner(api) as runner:
        await asyncio.sleep(0.5)
        assert runner.executor.begun == []
    assert reports(api, RUN.run_id) == ["failed"]


@in_virtual_time
async def test_an_active_run_does_not_count_as_lost() -> None:
    api = FakeApi()
    api.claim_answers = [[RUN]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(0.5)
        api.running = [RUN]
        await runner.register_again()
        await asyncio.sleep(100)
        assert runner.runs.is_active(RUN.run_id)
    assert reports(api, RUN.run_id) == ["started"]


@in_virtual_time
async def test_a_claim_that_is_listed_while_the_runner_begins_to_leave_is_not_started() -> None:
    api = FakeApi()

    async with polling_runner(api) as runner:

        async def held(runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
            runner.leave()
            return [RUN] if status == "claimed" else []

        api.held = held  # type: ignore[method-assign] # the runner's course changes while it is asked
        await asyncio.sleep(5)
        assert runner.executor.begun == []
    assert api.delivered == []


@in_virtual_time
async def test_claims_above_max_runs_wait_until_there_is_room() -> None:
    api = FakeApi()
    api.claim_answers = [[RUN, OTHER], [OTHER], [OTHER]]
    async with polling_runner(api, max_runs=1) as runner:
        await asyncio.sleep(0.5)
        assert runner.executor.begun == [RUN.run_id]
        runner.runs.stop_run(RUN.run_id, "the test makes room")
        await asyncio.sleep(20)
        assert runner.executor.begun == [RUN.run_id, OTHER.run_id]


@in_virtual_time
async def test_a_run_that_has_ended_and_is_claimed_again_is_reported_again() -> None:
    api = FakeApi(_each_second(Unreachable("reset"), math.inf))
    api.claim_answers = [[RUN]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(0.5)
        runner.runs.stop_run(RUN.run_id, "the test ends it")
        await runner.runs.wait_until_empty()
        api.claim_answers = [[RUN]]
        api.states[RUN.run_id] = wire.RunState(status="claimed")
        await runner.register_again()
        await asyncio.sleep(100)
        assert runner.executor.begun == [RUN.run_id]
    assert reports(api, RUN.run_id) == ["started", "stopped", "stopped"]
