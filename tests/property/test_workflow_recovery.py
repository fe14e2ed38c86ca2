"""A runner may be killed at any point of a workflow: the next one continues where it was, and the run ends once."""

import random

import msgspec
import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from tests.support.crash_model.runner import Kill, PlannedRun, Setup
from tests.support.crash_model.workflow import Result, scripted
from tests.support.crash_model.workflow_setups import (
    BUNDLED,
    DENIES,
    DONE,
    FAILS,
    REPEATED,
    SCRIPTS,
    bundled_setup,
    check,
    check_same,
    executed,
    setup_of,
    visits_of,
)
from tests.support.random_workflows import bounded_workflow
from tests.support.workflows import toml

FIRST_POINT = 14
"""The first kill point that can be in a workflow."""
VARIED = """
name = "varied"
initial = "choose"
budget = { max_wall_s = 100000 }

[states.choose]
on_done = "ask"

[states.ask]
approval = { question = "Begin?" }
timeout_s = 6
max_visits = 2
on_done = "work"
on_denied = "ask"
on_exhausted = "denied"

[states.work]
turn = {}
timeout_s = 60
on_interrupted = "continue"
on_done = "check"

[states.check]
command = { run = ["./check"] }
timeout_s = 60
on_interrupted = "clean"
on_done = "publish"

[states.clean]
command = { run = ["git", "clean", "-f"] }
timeout_s = 60
max_visits = 3
on_interrupted = "repeat"
on_done = "check"

[states.publish]
command = { run = ["./publish"] }
timeout_s = 60
on_done = "completed"

[states.denied]
final = true
outcome = "failed"
error = "${ask.error}"
"""


def test_a_run_that_the_coordinator_ends_while_its_workflow_waits_is_superseded() -> None:
    setup = setup_of(REPEATED, SCRIPTS["straight"])
    waits = msgspec.structs.replace(setup, plans=(PlannedRun(settled_at_s=2.5),))
    result = executed(waits)
    steps = [call.arguments[0] for call in result.calls if call.method == "record_transition"]
    (end,) = [step for step in steps if step.target == "superseded"]
    assert (end.source, end.event) == ("waiting", "wait_failed")
    assert result.runs[0].reports == []


@pytest.mark.parametrize("lost", [0, 100])
@pytest.mark.parametrize(
    "results",
    [{}, {"ask": (DENIES, DONE)}, {"ask": (DENIES,)}, {"check": (FAILS,)}],
    ids=lambda it: " ".join(it) or "straight",
)
def test_an_interrupted_state_is_followed_by_what_on_interrupted_says(
    results: dict[str, tuple[Result, ...]], lost: int
) -> None:
    setup = setup_of(VARIED, scripted(results, DONE))
    reference = executed(setup)
    check(reference, "")
    at_point, was_killed = FIRST_POINT - 1, True
    while was_killed:
        at_point += 1
        kill = Kill(at_point=at_point, lost=lost, down_s=at_point % 3)
        result = executed(msgspec.structs.replace(setup, ends=(kill,)))
        was_killed = result.killed > 0
        check(result, f"{kill}: ")
        path, expected = visits_of(result), visits_of(reference)
        assert result.world is not None
        open_number = result.world.starts[-1].open_number or 0
        interrupted = path[open_number - 1] if open_number else None
        if interrupted is None or interrupted.state not in ("check", "publish"):
            assert path == expected, kill
            assert result.runs[0].status == reference.runs[0].status, kill
        elif interrupted.state == "publish":
            assert interrupted.ending == "interrupted"
            assert result.runs[0].status == "failed"
            assert "its work may have been done" in (result.runs[0].error or "")
        else:
            assert (interrupted.ending, interrupted.target) == ("interrupted", "clean")
            begin, end = open_number - 1, open_number + 1
            assert [*path[:begin], *path[end:]] == expected, kill
            assert result.runs[0].status == reference.runs[0].status, kill
    assert at_point > FIRST_POINT + 20


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_workflow_whose_states_are_repeated_takes_the_same_path_after_a_kill_at_any_point(name: str) -> None:
    check_kills(setup_of(REPEATED, SCRIPTS[name]))


def test_a_turn_that_waits_for_limits_continues_after_a_kill_at_any_point() -> None:
    setup = setup_of(REPEATED, SCRIPTS["straight"])
    check_kills(msgspec.structs.replace(setup, plans=(PlannedRun(limits=(3.0, 3.0)),)))


def check_kills(setup: Setup) -> None:
    """Kill the runner at each point. The path must be that without a kill."""
    reference = executed(setup)
    check(reference, "")
    at_point, was_killed = FIRST_POINT - 1, True
    while was_killed:
        at_point += 1
        kill = Kill(at_point=at_point, lost=100 if at_point % 2 else 0, down_s=at_point % 3)
        result = executed(msgspec.structs.replace(setup, ends=(kill,)))
        was_killed = result.killed > 0
        check(result, f"{kill}: ")
        check_same(result, reference, f"{kill}: ")
    assert at_point > FIRST_POINT + 20


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_workflow_takes_the_same_path_after_a_kill_at_any_point(name: str) -> None:
    check_kills(bundled_setup(name))


def random_setup(rng: random.Random, *, repeats: bool) -> Setup:
    raw = bounded_workflow(rng)
    raw["budget"] = {"max_wall_s": 100_000}
    for state in raw["states"].values():
        if "wait" in state:
            state["wait"] = {"for_s": 2}
        if repeats and not {"wait", "approval", "agent", "final"} & state.keys():
            state["on_interrupted"] = "repeat"
    seed = rng.random()

    def result_of(state: str, visit: int) -> Result:
        rng = random.Random(f"{seed} {state} {visit}")
        kinds = ["done", "denied" if "approval" in raw["states"][state] else "error"]
        return Result(ending=rng.choice(kinds), takes_s=rng.choice([0.0, 1.0, 1.0, 1.0, None]))  # type: ignore[arg-type]

    text = "".join(f"{key} = {toml(value)}\n" for key, value in raw.items())
    plan = PlannedRun(limits=rng.choice([(), (), (3.0,), (None, 3.0)]))
    return msgspec.structs.replace(setup_of(text, result_of), plans=(plan,))


KILL = st.builds(Kill, st.integers(1, 120), st.sampled_from([0, 3, 100]), st.floats(0, 5))


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(st.integers(0, 2**32), st.lists(KILL, max_size=2).map(tuple))
def test_a_random_workflow_whose_states_are_repeated_takes_the_same_path_despite_kills(
    seed: int, kills: tuple[Kill, ...]
) -> None:
    setup = random_setup(random.Random(seed), repeats=True)
    result, reference = executed(msgspec.structs.replace(setup, ends=kills)), executed(setup)
    event(f"killed {result.killed} times")
    check(result, "")
    check_same(result, reference, "")


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(st.integers(0, 2**32), st.lists(KILL, max_size=6).map(tuple))
def test_a_random_workflow_ends_once_within_its_bounds_despite_kills(seed: int, kills: tuple[Kill, ...]) -> None:
    result = executed(msgspec.structs.replace(random_setup(random.Random(seed), repeats=False), ends=kills))
    event(f"killed {result.killed} times, {result.runs[0].status}")
    check(result, "")
    assert result.runs[0].status in ("completed", "failed")
