"""How long a run waits for a limit of its provider, and which run continues first."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.reporting.provider_limit import LimitScope, ProviderLimit
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.control.provider_limits import (
    JITTER_CAP_S,
    JITTER_SHARE,
    LONGEST_HOLD_S,
    UNKNOWN_RESET_BASE_S,
    UNKNOWN_RESET_CAP_S,
    LimitWait,
    NotWaitedFor,
    ProviderLimits,
)
from tests.support.virtual_time import in_virtual_time

RUNNER = load_machine("runner")
YEAR_S = 365 * 86_400.0


def limit(resets_at_s: float | None = None, scope: LimitScope = "credential") -> ProviderLimit:
    resets_at = None if resets_at_s is None else datetime.fromtimestamp(resets_at_s, UTC).isoformat()
    return ProviderLimit(kind="five_hour", resets_at=resets_at, scope=scope)


class World:
    """The limits of a runner whose wall clock is the loop's, and the runs that continue."""

    def __init__(self, policy: ProviderLimitPolicy, max_runs: float) -> None:
        self.executing: list[str] = []
        self.max_runs = max_runs
        self.events: list[str] = []
        self.clock_offset_s = 0.0
        self.limits = ProviderLimits(
            policy, self.free_slots, self.change, lambda _: self.events.append("reached"), self.pass_, self.now_s
        )
        self._tasks: list[asyncio.Task[None]] = []

    def now_s(self) -> float:
        return asyncio.get_running_loop().time() + self.clock_offset_s

    def free_slots(self) -> float:
        return self.max_runs - len(self.executing) - self.limits.admitted_count

    def change(self) -> None:
        self.limits.admit()

    def pass_(self) -> None:
        self.events.append("passed")

    async def wait(self, run_id: str, wait: LimitWait) -> None:
        """Bring a run into its wait. It executes once it may continue."""
        self.limits.parked(run_id, f"session of {run_id}")
        self._tasks.append(asyncio.create_task(self._wait(run_id, wait), name=run_id))
        await asyncio.sleep(0)

    async def _wait(self, run_id: str, wait: LimitWait) -> None:
        try:
            await self.limits.wait_for_admission(run_id, wait)
        finally:
            self.limits.unparked(run_id)
        self.executing.append(run_id)

    def cancel(self, run_id: str) -> None:
        next(task for task in self._tasks if task.get_name() == run_id).cancel()

    async def reset(self) -> None:
        """Do what the runner's machine does at the reset."""
        await self.limits.wait_for_reset()
        self.limits.set_testing(True)
        await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def a_world(policy: ProviderLimitPolicy | None = None, max_runs: float = math.inf) -> AsyncIterator[World]:
    world = World(policy or ProviderLimitPolicy(), max_runs)
    try:
        yield world
    finally:
        await world.aclose()


def planned(world: World, resets_at_s: float | None, number: int = 1) -> LimitWait:
    plan = world.limits.plan(limit(resets_at_s), number)
    assert isinstance(plan, LimitWait)
    return plan


async def limited(world: World, *run_ids: str) -> None:
    """The runs wait for a limit of the credential that resets at 10 s. The first of them has met it."""
    world.limits.reached(limit(10.0), run_ids[0])
    for run_id in run_ids:
        await world.wait(run_id, planned(world, 10.0))


def refused(world: World, resets_at_s: float | None, number: int = 1) -> str:
    plan = world.limits.plan(limit(resets_at_s), number)
    assert isinstance(plan, NotWaitedFor)
    return plan.reason


@in_virtual_time
async def test_a_run_waits_for_the_reset_and_a_random_time() -> None:
    async with a_world() as world:
        for resets_at_s in (1.0, 100.0, 3_600.0):
            dues = [planned(world, resets_at_s).due_s for _ in range(50)]
            assert all(
                resets_at_s <= due <= resets_at_s + min(JITTER_CAP_S, resets_at_s * JITTER_SHARE) for due in dues
            )
            assert len(set(dues)) > 1


@in_virtual_time
async def test_a_run_whose_reset_is_unknown_or_past_waits_twice_as_long_each_time() -> None:
    async with a_world(ProviderLimitPolicy(max_waits=100)) as world:
        await asyncio.sleep(1_000)
        for resets_at_s in (None, 999.0):
            for number in range(1, 100):
                wait_s = planned(world, resets_at_s, number).due_s - world.now_s()
                expected_s = min(UNKNOWN_RESET_CAP_S, UNKNOWN_RESET_BASE_S * 2 ** (number - 1))
                assert expected_s <= wait_s <= expected_s * (1 + JITTER_SHARE)


@in_virtual_time
async def test_a_run_fails_if_the_reset_is_too_far_away_or_it_has_waited_too_often() -> None:
    async with a_world(ProviderLimitPolicy(max_wait_s=100, max_waits=2)) as world:
        assert refused(world, 101.0) == "the runner waits 100 s at most (--limit-wait, LIMIT_WAIT)"
        assert refused(world, YEAR_S) == "the runner waits 100 s at most (--limit-wait, LIMIT_WAIT)"
        assert planned(world, 100.0, 2)
        assert refused(world, 100.0, 3) == "a run waits 2 times at most (max_waits)"
    async with a_world(ProviderLimitPolicy(max_wait_s=0)) as world:
        assert refused(world, 1.0) == "the runner does not wait for limits (--limit-wait 0, LIMIT_WAIT=0)"
        assert world.limits.left_s(world.limits.hold_back(0)) == 0
    async with a_world(ProviderLimitPolicy(max_waits=0)) as world:
        assert refused(world, 1.0) == "a run waits 0 times at most (max_waits)"


@in_virtual_time
async def test_a_limit_that_resets_in_a_year_is_tested_after_the_longest_wait() -> None:
    for policy, longest_s in (
        (ProviderLimitPolicy(max_wait_s=50), 50.0),
        (ProviderLimitPolicy(max_wait_s=0), LONGEST_HOLD_S),
    ):
        async with a_world(policy) as world:
            began_s = world.now_s()
            world.limits.reached(limit(world.now_s() + YEAR_S), "run_1")
            await world.limits.wait_for_reset()
            assert longest_s <= world.now_s() - began_s <= longest_s + JITTER_CAP_S


@in_virtual_time
async def test_after_the_reset_one_run_goes_first_and_the_others_follow_its_success() -> None:
    async with a_world() as world:
        world.limits.reached(limit(10.0), "run_1")
        for number in range(5):
            await world.wait(f"run_{number}", planned(world, 10.0))
        assert world.limits.holds_new_runs
        await asyncio.sleep(9)
        assert world.executing == []
        await world.reset()
        assert world.executing == ["run_0"]
        assert world.limits.holds_new_runs
        assert not world.limits.holds_back("run_0")
        assert world.limits.holds_back("run_1")
        world.limits.passed("run_3")  # not the tester: an answer to a request before the reset, perhaps
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0"]
        world.limits.passed("run_0")
        await asyncio.sleep(0.01)
        assert world.executing == [f"run_{number}" for number in range(5)]
        assert world.events == ["reached", "passed"]
        assert not world.limits.holds_new_runs


@in_virtual_time
async def test_a_tester_that_meets_the_limit_again_lets_no_other_run_go() -> None:
    async with a_world() as world:
        await limited(world, "run_0", "run_1")
        await world.reset()
        world.limits.reached(limit(30.0), "run_0")
        world.limits.set_testing(False)
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0"]
        assert world.limits.holds_new_runs
        await world.reset()
        assert world.now_s() >= 30
        assert world.executing == ["run_0", "run_1"]


@in_virtual_time
async def test_an_answer_to_a_tester_does_not_end_a_limit_that_another_run_has_met_meanwhile() -> None:
    async with a_world() as world:
        await limited(world, "run_0")
        await world.reset()
        world.limits.reached(limit(500.0), "run_1")  # was at work when the first limit was reached
        await world.wait("run_1", planned(world, 500.0))
        world.limits.set_testing(False)
        world.limits.passed("run_0")
        await asyncio.sleep(0.01)
        assert world.limits.holds_new_runs
        assert world.executing == ["run_0"]
        assert "passed" not in world.events
        await world.reset()
        assert world.now_s() >= 500
        assert world.executing == ["run_0", "run_1"]


@in_virtual_time
async def test_a_tester_that_ends_without_an_answer_is_replaced() -> None:
    async with a_world() as world:
        await limited(world, "run_0", "run_1")
        await world.reset()
        world.limits.ended("run_0")
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0", "run_1"]
        world.limits.ended("run_1")
        assert [world.limits.holds_new_runs] == [False]
        world.limits.claimed("run_2")
        assert [world.limits.holds_new_runs] == [True]
        assert not world.limits.holds_back("run_2")


@in_virtual_time
async def test_a_run_that_stops_waiting_in_the_moment_of_its_admission_is_not_the_tester() -> None:
    async with a_world() as world:
        await limited(world, "run_0", "run_1")
        await world.limits.wait_for_reset()
        world.cancel("run_0")
        world.limits.set_testing(True)
        await asyncio.sleep(0.01)
        assert world.executing == ["run_1"]
        assert world.limits.admitted_count == 0


@in_virtual_time
async def test_a_run_whose_time_limit_ends_in_the_moment_of_its_admission_is_admitted_again() -> None:
    async with a_world(max_runs=1) as world:
        wait = planned(world, 0.0)
        first = asyncio.create_task(world.limits.wait_for_admission("run_0", wait))
        world.limits.parked("run_0", "ses_1")
        await asyncio.sleep(0)
        assert world.limits.admitted_count == 1
        await world.wait("run_0", wait)  # its state is entered again, and the first admission is ignored
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0"]
        await first


@in_virtual_time
async def test_a_limit_of_a_session_holds_only_its_own_run() -> None:
    async with a_world(max_runs=1) as world:
        world.limits.reached(limit(10.0, "session"), "run_0")
        plan = world.limits.plan(limit(10.0, "session"), 1)
        assert isinstance(plan, LimitWait)
        await world.wait("run_0", plan)
        assert not world.limits.holds_new_runs
        assert not world.limits.holds_back("run_1")
        world.executing.append("run_1")
        await asyncio.sleep(20)
        assert world.executing == ["run_1"]  # the only slot is taken
        world.executing.remove("run_1")
        world.limits.admit()
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0"]
        assert world.events == []


@in_virtual_time
async def test_a_run_with_a_limit_of_its_session_does_not_continue_while_the_credential_is_limited() -> None:
    async with a_world() as world:
        await limited(world, "run_0")
        own = world.limits.plan(limit(5.0, "session"), 1)
        assert isinstance(own, LimitWait)
        await world.wait("run_1", own)
        await asyncio.sleep(9)
        assert world.executing == []
        await world.reset()
        assert world.executing == ["run_0"]
        world.limits.passed("run_0")
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0", "run_1"]


@in_virtual_time
async def test_a_tester_that_meets_a_limit_of_its_session_is_replaced() -> None:
    async with a_world() as world:
        await limited(world, "run_0", "run_1")
        await world.reset()
        world.executing.remove("run_0")
        world.limits.reached(limit(5_000.0, "session"), "run_0")
        own = world.limits.plan(limit(5_000.0, "session"), 2)
        assert isinstance(own, LimitWait)
        await world.wait("run_0", own)
        await asyncio.sleep(0.01)
        assert world.executing == ["run_1"]


@in_virtual_time
async def test_no_run_continues_between_the_failure_of_a_tester_and_the_step_of_the_runner() -> None:
    async with a_world() as world:
        await limited(world, "run_0", "run_1")
        await world.reset()
        world.limits.reached(limit(30.0), "run_0")
        world.limits.admit()
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0"]


@in_virtual_time
async def test_a_runner_that_was_down_for_longer_than_the_wait_continues_its_runs() -> None:
    async with a_world(ProviderLimitPolicy(max_wait_s=100)) as world:
        wait = planned(world, 10.0)
        await asyncio.sleep(1_000)
        world.limits.restore(wait)
        left_s = world.limits.left_s(wait)
        assert left_s is not None
        assert left_s > 1


@in_virtual_time
async def test_the_wait_for_a_slot_has_no_time_limit() -> None:
    async with a_world(ProviderLimitPolicy(max_wait_s=100)) as world:
        own = world.limits.plan(limit(10.0, "session"), 1)
        assert isinstance(own, LimitWait)
        assert world.limits.left_s(own) is not None
        await asyncio.sleep(12)
        assert world.limits.is_over(own)
        assert world.limits.left_s(own) is None


@in_virtual_time
async def test_a_wall_clock_that_is_set_forward_ends_the_wait_within_half_a_minute() -> None:
    async with a_world() as world:
        world.limits.reached(limit(18_000.0), "run_0")
        waiting = asyncio.create_task(world.limits.wait_for_reset())
        await asyncio.sleep(60)
        world.clock_offset_s = 20_000
        await asyncio.wait_for(waiting, 31)


@in_virtual_time
async def test_a_wall_clock_that_is_set_back_does_not_prolong_the_next_wait() -> None:
    async with a_world() as world:
        world.clock_offset_s = 5_000
        world.limits.reached(limit(5_010.0), "run_0")
        await world.wait("run_0", planned(world, 5_010.0))
        await world.reset()
        world.clock_offset_s = 0
        world.limits.reached(limit(30.0), "run_0")
        world.limits.set_testing(False)
        await asyncio.wait_for(world.limits.wait_for_reset(), 60)


@in_virtual_time
async def test_a_leaving_runner_lets_no_run_continue() -> None:
    async with a_world() as world:
        await limited(world, "run_0")
        world.limits.close()
        await world.reset()
        assert world.executing == []


@in_virtual_time
async def test_a_thousand_waiting_runs_follow_at_once() -> None:
    async with a_world() as world:
        await limited(world, *(f"run_{number}" for number in range(1_000)))
        await world.reset()
        world.limits.passed("run_0")
        await asyncio.sleep(0.01)
        assert len(world.executing) == 1_000


@in_virtual_time
async def test_the_wait_of_an_earlier_process_holds_the_credential() -> None:
    async with a_world() as world:
        world.limits.restore(LimitWait(limit=limit(10.0), since_s=0, due_s=10.5, number=1))
        assert world.limits.holds_new_runs
        assert world.limits.due_text == "1970-01-01 00:00:10 UTC"
        await asyncio.sleep(11)
        assert [world.limits.due_text] == [None]
    async with a_world() as world:
        world.limits.restore(LimitWait(limit=limit(10.0, "session"), since_s=0, due_s=10.5, number=1))
        assert not world.limits.holds_new_runs


@pytest.mark.parametrize("resets_at", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"])
def test_a_reset_at_the_end_of_the_calendar_is_planned(resets_at: str) -> None:
    limits = ProviderLimits(
        ProviderLimitPolicy(max_wait_s=1e15), lambda: 1, lambda: None, lambda _: None, lambda: None, lambda: 0.0
    )
    far = ProviderLimit(kind="far", resets_at=resets_at)
    limits.reached(far, "run_1")
    assert limits.due_text is not None
    assert isinstance(limits.plan(far, 1), LimitWait)


@pytest.mark.parametrize(
    ("state", "facts", "events", "target"),
    [
        ("online", [], ["limit_reached", "limit_reset", "limit_passed"], "online"),
        ("testing_limit", ["credential_is_limited"], ["registration_lost", "registered"], "limited"),
        ("testing_limit", ["credential_is_limited"], ["registration_lost", "registered", "limit_passed"], "online"),
        ("limited", ["descriptors_are_short"], ["limit_passed"], "saturated"),
        ("limited", [], ["limit_passed", "limit_reached"], "limited"),
        ("registering", ["credential_is_limited"], ["limit_passed", "limit_reached", "registered"], "limited"),
    ],
)
def test_the_runner_has_the_state_of_its_credential(
    state: str, facts: list[str], events: list[str], target: str
) -> None:
    model = RUNNER.model()
    model.state, model.facts = state, frozenset(facts)
    for event in events:
        RUNNER.fire(model, event)
    assert model.state == target


@in_virtual_time
async def test_a_tester_that_has_met_no_limit_for_long_ends_the_test() -> None:
    async with a_world() as world:
        world.limits.reached(limit(10.0), "run_0")
        await world.wait("run_0", planned(world, 10.0))
        await world.wait("run_1", planned(world, 10.0))
        await world.reset()
        world.limits.end_test()
        await asyncio.sleep(0.01)
        assert world.executing == ["run_0", "run_1"]
        assert world.limits.limit is None
