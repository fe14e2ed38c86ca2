"""Runs meet limits of their provider while the runner is killed, drained and stopped: each run ends once, none is
forgotten, and no run starts while the limit of the credential is reached."""

import random
from functools import partial

import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.runtime.actors.interfaces import load_machine
from tests.property.test_recovery_machine import check_run, faults
from tests.support.crash_model import runner as runner_model
from tests.support.crash_model.coordinator import ModelRun
from tests.support.crash_model.runner import Drain, Kill, PlannedRun, Setup, SimulationResult, simulate
from tests.support.virtual_time import run_virtually

POLICY = ProviderLimitPolicy(max_wait_s=1000)
PAST_S, NEAR_S, FAR_S, TOO_FAR_S = -3600.0, 3.0, 200.0, 365 * 86_400.0
STOP_LIMIT_S = 1.01
"""The runner looks every second for stops while no poll is held."""

moments = st.floats(0, 30, allow_nan=False)
submissions = st.just(0.0) | moments
resets = st.sampled_from([None, PAST_S, 0.0, NEAR_S, NEAR_S, FAR_S]) | st.floats(0, 60)
any_resets = resets | st.just(TOO_FAR_S)
kills = st.builds(Kill, st.integers(1, 80), st.integers(0, 12), st.just(0.0) | moments)
drains = st.builds(Drain, st.floats(0.1, 30), st.just(0.0) | moments)


def plans(
    limits: st.SearchStrategy[float | None], **fields: st.SearchStrategy[object]
) -> st.SearchStrategy[PlannedRun]:
    return st.builds(
        PlannedRun,
        lasts_s=st.sampled_from([0.0, 1.0]) | st.floats(0, 5),
        limits=st.lists(limits, max_size=2).map(tuple),
        limit_scope=st.sampled_from(["credential", "credential", "session"]),
        **fields,
    )


def setups(plan: st.SearchStrategy[PlannedRun], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Setup]:
    return st.builds(
        Setup,
        plans=st.lists(plan, min_size=1, max_size=3).map(tuple),
        sessions=st.just(3),  # a further run of a session that waits fails as busy
        max_runs=st.none() | st.integers(1, 2),
        limit_policy=st.just(POLICY),
        operator_stops_after_s=st.just(10_000.0),
        **fields,
    )


# A run that the last poll of a draining runner delivers is stopped, so all are submitted before.
calm = setups(plans(resets), ends=st.lists(drains, max_size=2).map(tuple), has_journal_file=st.just(True))
killed = setups(plans(resets, at_s=submissions), ends=st.lists(kills, min_size=1, max_size=3).map(tuple))
stopped = setups(plans(any_resets, at_s=submissions, stops_at_s=st.none() | moments))
stormy = setups(
    plans(
        any_resets,
        at_s=submissions,
        stops_at_s=st.none() | st.none() | moments,
        error=st.none() | st.just("exit code 1"),
    ),
    ends=st.lists(kills | drains, max_size=5).map(tuple),
    faults=st.lists(faults, max_size=10).map(tuple),
    control_faults=st.lists(faults, max_size=10).map(tuple),
    restarts_at_s=st.lists(moments, max_size=1).map(tuple),
    disk_full=st.none() | st.none() | st.tuples(moments, moments),
    commit_s=st.sampled_from([0.0, 0.01, 0.5]),
    retry_interrupted=st.booleans(),
    has_journal_file=st.booleans(),
)
TEST_LIMIT_S = float(str(load_machine("runner").spec.states["testing_limit"].timeout_s))

# Without `explain`, which repeats a failing example some hundred times.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, phases=PHASES)
@given(calm, st.integers())
def test_runs_that_meet_limits_complete_also_if_their_runner_drains(setup: Setup, seed: int) -> None:
    result = simulated(setup, seed)
    for run in result.runs:
        event(f"{result.starts[run.run.run_id]} executions")
        assert run.status == "completed", run.error
        assert run.started_reports == 1
        assert result.starts[run.run.run_id] == 1 + len(plan_of(run, setup).limits)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, phases=PHASES)
@given(killed, st.integers())
def test_only_a_run_that_was_interrupted_fails_because_its_runner_was_killed(setup: Setup, seed: int) -> None:
    result = simulated(setup, seed)
    event(f"killed {result.killed} times")
    for run in result.runs:
        event(run.status)
        interrupted = (run.error or "").startswith("interrupted: ")
        assert run.status == "completed" or (run.status == "failed" and interrupted), run.error


@pytest.mark.slow
@settings(max_examples=60, deadline=None, phases=PHASES)
@given(stopped, st.integers())
def test_a_stop_ends_a_run_at_once_also_while_it_waits(setup: Setup, seed: int) -> None:
    for run in simulated(setup, seed).runs:
        event(run.status)
        if run.stop_was_overwritten:
            continue
        if run.stop_requested_at_s is not None and run.settled_at_s is not None:
            assert run.settled_at_s - run.stop_requested_at_s < STOP_LIMIT_S
        elif TOO_FAR_S in plan_of(run, setup).limits:
            assert run.status in ("failed", "stopped")


@pytest.mark.slow
@settings(max_examples=150, deadline=None, phases=PHASES)
@given(stormy, st.integers())
def test_runs_that_meet_limits_end_once_whatever_happens(setup: Setup, seed: int) -> None:
    result = simulated(setup, seed)
    event(f"killed {result.killed} times")
    for run in result.runs:
        event(f"{run.status}, {'by the coordinator' if run.settled_by_coordinator else 'reported'}")


def test_a_run_that_continues_leaves_the_slot_to_the_run_that_a_held_poll_may_deliver() -> None:
    waits = PlannedRun(limits=(NEAR_S,), limit_scope="session")
    comes_after_the_reset = PlannedRun(at_s=3.7)
    setup = Setup(plans=(waits, comes_after_the_reset), max_runs=1, sessions=2)
    assert {run.status for run in simulated(setup, 0).runs} == {"completed"}


def test_the_other_runs_follow_a_tester_that_neither_gets_an_answer_nor_meets_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_model, "SETTLE_TIMEOUT_S", 3_000.0)
    fails_at_limit = PlannedRun(lasts_s=0.0, limits=(NEAR_S,))
    plans = (fails_at_limit, PlannedRun(at_s=10.0, lasts_s=2_000.0), PlannedRun(at_s=20.0, lasts_s=0.0))
    policy = ProviderLimitPolicy(max_waits=0)
    setup = Setup(plans=plans, sessions=3, limit_policy=policy, operator_stops_after_s=10_000.0)
    _, tester, other = run_virtually(partial(simulate, setup)).runs
    assert [tester.status, other.status] == ["completed", "completed"]
    assert tester.settled_at_s is not None
    assert other.settled_at_s is not None
    assert TEST_LIMIT_S < other.settled_at_s < TEST_LIMIT_S + 100 < tester.settled_at_s


def simulated(setup: Setup, seed: int) -> SimulationResult:
    random.seed(seed)
    result = run_virtually(partial(simulate, setup))
    assert result.is_settled, "no run stays open and no message stays"
    for run in result.runs:
        check_run(run, setup, "")
    assert list(result.timeline.defects(POLICY.max_wait_s)) == []
    if setup.max_runs is not None and setup.is_without_faults:
        assert result.timeline.most_at_once() <= setup.max_runs
    return result


def plan_of(run: ModelRun, setup: Setup) -> PlannedRun:
    return setup.plans[int(run.run.run_id.removeprefix("run_"))]
