"""A runner may be killed at any point, any number of times: each run is reported once, and none stays open."""

import random
from functools import partial

import msgspec
import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from fsm_runner.runtime.actors.run import INTERRUPTIONS_LIMIT
from tests.support.crash_model.coordinator import Fault, ModelRun
from tests.support.crash_model.runner import Kill, PlannedRun, Setup, SimulationResult, simulate
from tests.support.virtual_time import run_virtually

MIN_KILL_POINTS = 10
"""Every setup has at least this number of kill points."""

moments = st.floats(0, 30, allow_nan=False)
short = st.sampled_from([0.0, 0.0, 0.01]) | st.floats(0, 3)
fault_kinds = st.sampled_from(["none", "none", "none", "lost answer", "lost answer", "error", "refused connection"])
faults = st.builds(Fault, fault_kinds, short, short)
plans = st.builds(
    PlannedRun,
    at_s=st.just(0.0) | moments,
    lasts_s=st.just(0.0) | moments | st.none(),
    error=st.none() | st.just("exit code 1"),
    stops_at_s=st.none() | st.none() | moments,
    settled_at_s=st.none() | st.none() | st.none() | moments,
    requeued_at_s=st.none() | st.none() | moments,
    offered_after_s=short,
    given_away_at_s=st.none() | st.none() | moments,
)
kills = st.builds(Kill, st.integers(1, 60), st.integers(0, 12), st.just(0.0) | moments)
setups = st.builds(
    Setup,
    plans=st.lists(plans, min_size=1, max_size=3).map(tuple),
    ends=st.lists(kills, max_size=6).map(tuple),
    faults=st.lists(faults, max_size=15).map(tuple),
    control_faults=st.lists(faults, max_size=15).map(tuple),
    restarts_at_s=st.lists(moments, max_size=1).map(tuple),
    disk_full=st.none() | st.tuples(moments, moments),
    sessions=st.integers(1, 3),
    commit_s=st.sampled_from([0.0, 0.01, 0.5]),
    retry_interrupted=st.booleans(),
    max_runs=st.none() | st.just(1),
)


# Without `explain`, which repeats a failing example some hundred times.
@pytest.mark.slow
@settings(max_examples=300, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(setups, st.integers())
def test_a_killed_runner_reports_every_end_exactly_once(setup: Setup, seed: int) -> None:
    random.seed(seed)
    result = run_virtually(partial(simulate, setup))
    event(f"killed {result.killed} times")
    check(result, setup)
    for run in result.runs:
        event(f"{run.status}, {'by the coordinator' if run.settled_by_coordinator else 'reported'}")


SETUPS = {
    "completes": Setup(plans=(PlannedRun(),)),
    "completes, slow disk": Setup(plans=(PlannedRun(),), commit_s=0.3),
    "completes at the second attempt": Setup(plans=(PlannedRun(),), retry_interrupted=True),
    "fails": Setup(plans=(PlannedRun(error="exit code 1"),)),
    "is stopped at work": Setup(plans=(PlannedRun(lasts_s=None, stops_at_s=2.0),)),
    "is stopped at once": Setup(plans=(PlannedRun(lasts_s=None, stops_at_s=0.0),)),
    "is stopped while the runner is down": Setup(plans=(PlannedRun(lasts_s=None, stops_at_s=7.0),)),
    "is given up by the coordinator": Setup(plans=(PlannedRun(lasts_s=30.0, settled_at_s=7.0),)),
    "follows another one": Setup(plans=(PlannedRun(), PlannedRun(at_s=3.0))),
    "comes while the runner is down": Setup(plans=(PlannedRun(), PlannedRun(at_s=7.0))),
    "answers are lost": Setup(plans=(PlannedRun(),), faults=(Fault("lost answer"),) * 4),
    "claim is lost": Setup(plans=(PlannedRun(),), control_faults=(Fault(), Fault(), Fault(), Fault("lost answer"))),
    "is handed out again": Setup(plans=(PlannedRun(),), restarts_at_s=(0.0, 6.0)),
    "is queued again": Setup(plans=(PlannedRun(lasts_s=4.0, requeued_at_s=2.0),)),
    "ends while it is queued again": Setup(plans=(PlannedRun(requeued_at_s=0.5, offered_after_s=10.0),)),
    "is queued again while the runner is down": Setup(plans=(PlannedRun(lasts_s=7.0, requeued_at_s=5.0),)),
    "is given to another runner": Setup(plans=(PlannedRun(lasts_s=4.0, given_away_at_s=2.0),)),
    "is given to another runner while this one is down": Setup(plans=(PlannedRun(lasts_s=9.0, given_away_at_s=5.0),)),
    "disk is full": Setup(plans=(PlannedRun(lasts_s=4.0),), disk_full=(2.0, 60.0), retry_interrupted=True),
}


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("down_s", [0.0, 6.0])
@pytest.mark.parametrize("lost", [0, 2, 100])
def test_a_runner_may_be_killed_at_each_point_of_a_run(name: str, lost: int, down_s: float) -> None:
    """Try all points in order, until the process ends before it reaches one."""
    random.seed(0)
    at_point, was_killed = 0, True
    while was_killed:
        at_point += 1
        kill = Kill(at_point=at_point, lost=lost, down_s=down_s)
        setup = msgspec.structs.replace(SETUPS[name], ends=(kill,))
        result = run_virtually(partial(simulate, setup))
        was_killed = result.killed > 0
        check(result, setup, f"{kill}: ")
    assert at_point > MIN_KILL_POINTS


@pytest.mark.parametrize("lost", [0, 2, 100])
def test_a_runner_may_be_killed_again_while_it_recovers(lost: int) -> None:
    random.seed(0)
    for first in range(MIN_KILL_POINTS, 40, 3):
        for second in range(1, 25, 2):
            kills = (Kill(at_point=first, lost=lost, down_s=0.0), Kill(at_point=second, lost=lost, down_s=0.0))
            setup = Setup(plans=(PlannedRun(),), ends=kills)
            check(run_virtually(partial(simulate, setup)), setup, f"{kills}: ")


def check(result: SimulationResult, setup: Setup, of: str = "") -> None:
    assert result.is_settled, f"{of}no run stays open and no message stays"
    for run in result.runs:
        starts = result.starts[run.run.run_id]
        check_run(run, setup, of)
        assert starts <= run.attempt * (1 + INTERRUPTIONS_LIMIT if setup.retry_interrupted else 1), of


def check_run(run: ModelRun, setup: Setup, of: str) -> None:
    assert run.is_settled, f"{of}no run stays open at the coordinator"
    assert len(set(run.reports)) <= 1, f"{of}no two ends are reported: {run.reports}"
    assert len(run.reports) <= 1, f"{of}no end is reported twice"
    assert run.settled_by_coordinator or run.reports, f"{of}an end is missing"
    if setup.disk_full is None:  # acknowledgements cannot be recorded then
        assert run.reopened == [], f"{of}nothing sets a run or its session back to running after its end"
