"""However often a runner is killed, and wherever: each run is reported once, and nothing is left open."""

import random
from functools import partial

import msgspec
import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from fsm_runner.runtime.actors.run import INTERRUPTIONS_LIMIT
from tests.support.model_coordinator import Fault, HeldRun
from tests.support.mortal_runner import Kill, Plan, Seen, World, lives
from tests.support.virtual_time import run_virtually

LEAST_POINTS = 10
"""So many points at which it can be killed the life of a runner has in any case."""

moments = st.floats(0, 30, allow_nan=False)
short = st.sampled_from([0.0, 0.0, 0.01]) | st.floats(0, 3)
fault_kinds = st.sampled_from(["none", "none", "none", "lost answer", "lost answer", "error", "refused connection"])
faults = st.builds(Fault, fault_kinds, short, short)
plans = st.builds(
    Plan,
    at_s=st.just(0.0) | moments,
    lasts_s=st.just(0.0) | moments | st.none(),
    error=st.none() | st.just("exit code 1"),
    stops_at_s=st.none() | st.none() | moments,
    settled_at_s=st.none() | st.none() | st.none() | moments,
)
kills = st.builds(Kill, st.integers(1, 60), st.integers(0, 12), st.just(0.0) | moments)
worlds = st.builds(
    World,
    plans=st.lists(plans, min_size=1, max_size=3).map(tuple),
    kills=st.lists(kills, max_size=6).map(tuple),
    faults=st.lists(faults, max_size=15).map(tuple),
    line_faults=st.lists(faults, max_size=15).map(tuple),
    restarts_at_s=st.lists(moments, max_size=1).map(tuple),
    disk_full=st.none() | st.tuples(moments, moments),
    sessions=st.integers(1, 3),
    commit_s=st.sampled_from([0.0, 0.01, 0.5]),
    retry_interrupted=st.booleans(),
    max_runs=st.none() | st.just(1),
)


# Not `explain`: what a failing example costs, it would cost some hundred times.
@settings(max_examples=300, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(worlds, st.integers())
def test_a_runner_that_is_killed_anywhere_loses_no_end_and_tells_none_twice(world: World, seed: int) -> None:
    random.seed(seed)
    seen = run_virtually(partial(lives, world))
    event(f"killed {seen.killed} times")
    check(seen, world)
    for run in seen.runs:
        event(f"{run.status}, {'by itself' if run.settled_by_itself else 'told'}")


SCENES = {
    "completes": World(plans=(Plan(),)),
    "completes, slow disk": World(plans=(Plan(),), commit_s=0.3),
    "completes at the second attempt": World(plans=(Plan(),), retry_interrupted=True),
    "fails": World(plans=(Plan(error="exit code 1"),)),
    "is stopped at work": World(plans=(Plan(lasts_s=None, stops_at_s=2.0),)),
    "is stopped at once": World(plans=(Plan(lasts_s=None, stops_at_s=0.0),)),
    "is stopped while the runner is down": World(plans=(Plan(lasts_s=None, stops_at_s=7.0),)),
    "is given up by the coordinator": World(plans=(Plan(lasts_s=30.0, settled_at_s=7.0),)),
    "follows another one": World(plans=(Plan(), Plan(at_s=3.0))),
    "comes while the runner is down": World(plans=(Plan(), Plan(at_s=7.0))),
    "answers are lost": World(plans=(Plan(),), faults=(Fault("lost answer"),) * 4),
    "claim is lost": World(plans=(Plan(),), line_faults=(Fault(), Fault(), Fault(), Fault("lost answer"))),
    "is handed out again": World(plans=(Plan(),), restarts_at_s=(0.0, 6.0)),
    "disk is full": World(plans=(Plan(lasts_s=4.0),), disk_full=(2.0, 60.0), retry_interrupted=True),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("down_s", [0.0, 6.0])
@pytest.mark.parametrize("lost", [0, 2, 100])
def test_a_runner_may_be_killed_at_each_point_of_a_run(scene: str, lost: int, down_s: float) -> None:
    """All points, one after another, until the process has come to its end without meeting it."""
    random.seed(0)
    at_point, was_killed = 0, True
    while was_killed:
        at_point += 1
        kill = Kill(at_point=at_point, lost=lost, down_s=down_s)
        world = msgspec.structs.replace(SCENES[scene], kills=(kill,))
        seen = run_virtually(partial(lives, world))
        was_killed = seen.killed > 0
        check(seen, world, f"{kill}: ")
    assert at_point > LEAST_POINTS


@pytest.mark.parametrize("lost", [0, 2, 100])
def test_a_runner_may_be_killed_again_while_it_takes_up_what_is_left(lost: int) -> None:
    random.seed(0)
    for first in range(LEAST_POINTS, 40, 3):
        for second in range(1, 25, 2):
            kills = (Kill(at_point=first, lost=lost, down_s=0.0), Kill(at_point=second, lost=lost, down_s=0.0))
            world = World(plans=(Plan(),), kills=kills)
            check(run_virtually(partial(lives, world)), world, f"{kills}: ")


def check(seen: Seen, world: World, of: str = "") -> None:
    assert seen.has_nothing_left, f"{of}no run stays open and no message stays"
    for run in seen.runs:
        begun = seen.begun[run.run.run_id]
        check_run(run, world, of)
        assert begun <= (1 + INTERRUPTIONS_LIMIT if world.retry_interrupted else 1), of


def check_run(run: HeldRun, world: World, of: str) -> None:
    assert run.is_settled, f"{of}no run stays open at the coordinator"
    assert len(set(run.reports)) <= 1, f"{of}no two ends are reported: {run.reports}"
    assert len(run.reports) <= 1, f"{of}no end is reported twice"
    assert run.settled_by_itself or run.reports, f"{of}an end is missing"
    if world.disk_full is None:  # what was acknowledged cannot be written down then
        assert run.reopened == [], f"{of}nothing sets a run or its session back to running after its end"
