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
from tests.support.line import RUN, STOP, FakeApi, PollAnswer, line
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
async def test_a_claim_that_nobody_knows_is_taken_up_after_a_registration() -> None:
    api = FakeApi()
    api.claim_answers = [[RUN]]
    async with line(api) as made:
        await asyncio.sleep(0.5)
        assert made.executor.begun == [RUN.run_id]
        assert made.runs.is_active(RUN.run_id)
    assert api.calls[:3] == ["claims", "look up", "poll"]
    assert reports(api, RUN.run_id) == ["started"]


@in_virtual_time
async def test_after_a_later_registration_the_poll_that_is_held_is_heard_out_before_the_list_is_asked_for() -> None:
    held: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    api = FakeApi([held])
    api.claim_answers = [[], [RUN]]
    async with line(api) as made:
        await asyncio.sleep(20)
        await made.register_again()
        await asyncio.sleep(5)
        assert made.executor.begun == []
        held.set_result(Polled())
        await asyncio.sleep(1)
        assert made.executor.begun == [RUN.run_id]
    assert api.calls[:5] == ["claims", "look up", "poll", "claims", "look up"]


@pytest.mark.parametrize("fault", [Unreachable("reset"), NoConnection("refused")])
@in_virtual_time
async def test_a_claim_that_nobody_knows_is_taken_up_after_a_poll_that_broke(fault: CoordinatorError) -> None:
    api = FakeApi([fault])
    api.claim_answers = [[], [RUN]]
    async with line(api) as made:
        await asyncio.sleep(1)
        assert made.executor.begun == [RUN.run_id]
    assert api.calls[:5] == ["claims", "look up", "poll", "claims", "look up"]


@in_virtual_time
async def test_a_claim_by_a_poll_that_was_given_up_is_found_as_long_as_the_coordinator_may_hold_it() -> None:
    """The next polls are answered each second, so the list can be looked at in between."""
    late_s = LONG_AFTER_S + 20.0
    api = FakeApi(_each_second(Unreachable("reset"), LONG_AFTER_S))

    async def held(runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
        if status != "claimed":
            return []
        api.asked_for_claims_at_s.append(asyncio.get_running_loop().time())
        return [RUN] if api.asked_for_claims_at_s[-1] >= late_s else []

    api.held = held  # type: ignore[method-assign] # the answer depends on the time
    async with line(api) as made:
        await asyncio.sleep(late_s - 0.1)
        assert made.executor.begun == []
        await asyncio.sleep(3)
        assert made.executor.begun == [RUN.run_id]


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
async def test_the_list_is_asked_for_at_most_once_an_interval_and_not_after_the_doubt() -> None:
    api = FakeApi(_each_second(Unreachable("reset")))
    async with line(api):
        await asyncio.sleep(200)
    asked = api.asked_for_claims_at_s
    after_the_fault = asked[1:]
    assert all(later - earlier > RUN_LOOKUP_INTERVAL_S - 1e-6 for earlier, later in itertools.pairwise(after_the_fault))
    assert len(after_the_fault) > 10
    assert HOLD_S + POLL_MARGIN_S <= after_the_fault[-1] <= HOLD_S + POLL_MARGIN_S + 5


@in_virtual_time
async def test_a_claim_of_a_run_that_is_at_work_or_has_ended_here_is_not_carried_out_again() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.claim_answers = [[], [RUN]]
    api.stop_answers = [[], [STOP]]
    async with line(api) as made:
        await asyncio.sleep(1)
        assert reports(api, RUN.run_id) == ["started", "stopped"]
        assert len(made.runs) == 0
        api.claim_answers = [[RUN]] * 10
        await made.register_again()
        await asyncio.sleep(1)
    assert made.executor.begun == [RUN.run_id]
    assert reports(api, RUN.run_id) == ["started", "stopped"]
    assert made.record.claims == [RUN.run_id]


@in_virtual_time
async def test_a_run_at_work_is_not_failed_where_the_list_does_not_tell_its_agent() -> None:
    handed_out = wire.Run(run_id="run_2", session_id="ses_2", agent_name="echo", resolved_agent_blueprint=BLUEPRINT)
    api = FakeApi([Polled(run=handed_out), Unreachable("reset")])
    api.claim_answers = [[], [NAMED]]
    async with line(api) as made:
        await asyncio.sleep(1)
        assert not api.claim_answers
        assert len(made.runs) == 1
    assert reports(api, NAMED.run_id) == ["started"]


@in_virtual_time
async def test_a_claim_that_cannot_be_read_is_failed_once_and_hides_no_other() -> None:
    api = FakeApi([Unreachable("reset")])
    api.claim_answers = [[UnreadableRun("run_9", "no session"), RUN], [UnreadableRun("run_9", "no session"), RUN]]
    async with line(api) as made:
        await asyncio.sleep(1)
        assert made.executor.begun == [RUN.run_id]
    assert reports(api, "run_9") == ["failed"]


@pytest.mark.parametrize("has_blueprint", [True, False])
@in_virtual_time
async def test_a_claim_without_the_agent_that_it_names_is_failed_as_lost(has_blueprint: bool) -> None:
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

    async def keeping(path: str, body: bytes, method: str = "POST") -> object:
        bodies.append(body)
        return await deliver(path, body, method)

    api.deliver = keeping  # type: ignore[method-assign,assignment]
    async with line(api) as made:
        await asyncio.sleep(1)
        assert made.executor.begun == (["run_2"] if has_blueprint else [])
    assert reports(api, "run_2") == (["started"] if has_blueprint else ["failed"])
    assert any(LOST.encode() in body for body in bodies) is not has_blueprint


@in_virtual_time
async def test_a_full_runner_takes_no_lost_claim_up_before_it_has_room_again() -> None:
    api = FakeApi([Polled(run=RUN)])
    api.claim_answers = [[], [NAMED]]
    async with line(api, max_runs=1) as made:
        await asyncio.sleep(0)
        await made.register_again()
        await asyncio.sleep(10)
        assert made.executor.begun == [RUN.run_id]
        assert len(api.asked_for_claims_at_s) == 1
        api.claim_answers = [[wire.Run(run_id="run_2", session_id="ses_2")]]
        api.stop_answers = [[STOP]]
        await asyncio.sleep(5)
        assert made.executor.begun == [RUN.run_id, "run_2"]


@in_virtual_time
async def test_a_runner_that_leaves_takes_no_lost_claim_up() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    async with line(api) as made:
        await asyncio.sleep(0.01)
        asked = len(api.asked_for_claims_at_s)
        made.leave()
        api.claim_answers = [[wire.Run(run_id="run_2", session_id="ses_2")]] * 10
        await asyncio.sleep(10)
        assert made.executor.begun == [RUN.run_id]
        assert len(api.asked_for_claims_at_s) == asked


@in_virtual_time
async def test_a_list_that_cannot_be_had_is_asked_for_again() -> None:
    api = FakeApi(_each_second(NoConnection("refused"), LONG_AFTER_S))
    async with line(api) as made:
        await asyncio.sleep(LONG_AFTER_S - 1)
        api.claim_answers = [Unreachable("502"), Unreachable("502"), [RUN]]
        await asyncio.sleep(10)
        assert made.executor.begun == [RUN.run_id]


@in_virtual_time
async def test_a_run_that_was_claimed_for_nobody_and_is_to_be_stopped_is_reported_as_stopped() -> None:
    """It stands in the list of stops alone; nobody else would ever settle it."""
    api = FakeApi([Unreachable("reset")])
    api.stop_answers = [[], [STOP]]
    async with line(api) as made:
        await asyncio.sleep(1)
        assert made.executor.begun == []
    assert reports(api, RUN.run_id) == ["stopped"]


@in_virtual_time
async def test_a_run_that_an_earlier_process_has_begun_and_nobody_remembers_fails_as_lost() -> None:
    api = FakeApi()
    api.running = [RUN]
    api.states[RUN.run_id] = wire.RunState(status="running")
    async with line(api) as made:
        await asyncio.sleep(0.5)
        assert made.executor.begun == []
    assert reports(api, RUN.run_id) == ["failed"]


@in_virtual_time
async def test_a_run_that_is_at_work_here_is_not_taken_for_lost() -> None:
    api = FakeApi()
    api.claim_answers = [[RUN]]
    async with line(api) as made:
        await asyncio.sleep(0.5)
        api.running = [RUN]
        await made.register_again()
        await asyncio.sleep(100)
        assert made.runs.is_active(RUN.run_id)
    assert reports(api, RUN.run_id) == ["started"]


@in_virtual_time
async def test_a_claim_that_is_told_while_the_runner_begins_to_leave_is_not_taken_up() -> None:
    api = FakeApi()

    async with line(api) as made:

        async def held(runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
            made.leave()
            return [RUN] if status == "claimed" else []

        api.held = held  # type: ignore[method-assign] # the runner's course changes while it is asked
        await asyncio.sleep(5)
        assert made.executor.begun == []
    assert api.delivered == []


@in_virtual_time
async def test_claims_beyond_the_number_of_runs_wait_until_there_is_room() -> None:
    api = FakeApi()
    api.claim_answers = [[RUN, OTHER], [OTHER], [OTHER]]
    async with line(api, max_runs=1) as made:
        await asyncio.sleep(0.5)
        assert made.executor.begun == [RUN.run_id]
        made.runs.stop_run(RUN.run_id, "the test makes room")
        await asyncio.sleep(20)
        assert made.executor.begun == [RUN.run_id, OTHER.run_id]


@in_virtual_time
async def test_a_run_that_has_ended_here_and_is_claimed_again_has_its_end_told_again() -> None:
    api = FakeApi(_each_second(Unreachable("reset"), math.inf))
    api.claim_answers = [[RUN]]
    async with line(api) as made:
        await asyncio.sleep(0.5)
        made.runs.stop_run(RUN.run_id, "the test ends it")
        await made.runs.wait_until_empty()
        api.claim_answers = [[RUN]]
        api.states[RUN.run_id] = wire.RunState(status="claimed")
        await made.register_again()
        await asyncio.sleep(100)
        assert made.executor.begun == [RUN.run_id]
    assert reports(api, RUN.run_id) == ["started", "stopped", "stopped"]
