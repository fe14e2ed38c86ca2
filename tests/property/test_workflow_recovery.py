"""A runner may be killed, stopped or timed out at any point of a workflow: it continues where it was, and ends once."""

import itertools
import random
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest

from fsm_runner.protocol.json_text import decode_json
from fsm_runner.workflow.file import LoadedWorkflow, restore_workflow
from tests.support.crash_model.runner import Kill, PlannedRun, Setup, SimulationResult, simulate
from tests.support.crash_model.workflow import Result, Script, WorkflowWorld, scripted
from tests.support.crash_model.workflow_replay import WorkflowReplay
from tests.support.virtual_time import run_virtually

RUN = "run_0"
FIRST_POINT = 14
"""The first kill point that can be in a workflow."""
REPEATED = """
name = "repeated"
initial = "draft"
budget = { max_wall_s = 100000 }
result = { text = "${verify.exit_code}", data = { by = "${ask.by}", failed = "${work.failed}" } }

[states.draft]
turn = { prompt = "draft" }
timeout_s = 60
on_interrupted = "repeat"
on_done = "verify"

[states.verify]
command = { run = ["./verify"] }
timeout_s = 60
on_interrupted = "repeat"
on_done = "rest"
on_error = "fix"
on_timeout = "fix"

[states.fix]
turn = { prompt = "fix ${verify.error}" }
assigns = "draft"
timeout_s = 60
max_visits = 2
on_interrupted = "repeat"
on_done = "verify"

[states.rest]
wait = { for_s = 2 }
on_done = "ask"

[states.ask]
approval = { question = "Go on? ${verify.exit_code}" }
timeout_s = 20
max_visits = 2
on_done = "work"
on_denied = "choose"

[states.choose]
on_done = "verify"

[states.work]
agent = { name = "worker" }
timeout_s = 600
on_done = "completed"
"""
DONE = Result(value={"exit_code": 0, "failed": 0})
FAILS = Result(ending="error", value={"exit_code": 1})
DENIES = Result(ending="denied", takes_s=2.0)
SCRIPTS = {
    "straight": scripted({}, DONE),
    "with two corrections": scripted({"verify": (FAILS, FAILS, DONE)}, DONE),
    "denied once": scripted({"ask": (DENIES, Result(takes_s=2.0))}, DONE),
    "denied until used up": scripted({"ask": (DENIES,)}, DONE),
    "never verified": scripted({"verify": (FAILS,)}, DONE),
    "undecided": scripted({"ask": (Result(takes_s=None),)}, DONE),
}


VARIED = """
name = "varied"
initial = "choose"
budget = { max_wall_s = 100000 }

[states.choose]
on_done = "ask"

[states.ask]
approval = { question = "Begin?" }
timeout_s = 20
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


def workflow_of(text: str) -> LoadedWorkflow:
    return restore_workflow("w.toml", text, {})


class Visit(NamedTuple):
    """A visit as the journal has it."""

    state: str
    ending: str | None
    target: str | None
    value: dict[str, Any] | None


def visits_of(result: SimulationResult) -> list[Visit]:
    replay = WorkflowReplay()
    for call in result.calls:
        if hasattr(WorkflowReplay, call.method):
            getattr(replay, call.method)(*call.arguments)
    return [
        Visit(it.state, it.ending, it.target, None if it.value is None else decode_json(it.value))
        for _, it in sorted(replay.visits.get(RUN, {}).items())
    ]


def setup_of(text: str, script: Script, **fields: Any) -> Setup:
    return Setup(plans=(PlannedRun(),), workflow=(workflow_of(text), script), operator_stops_after_s=20_000.0, **fields)


def executed(setup: Setup) -> SimulationResult:
    random.seed(0)
    return run_virtually(partial(simulate, setup))


def check(result: SimulationResult, of: str) -> None:
    """What holds for every workflow however its processes ended."""
    (run,) = result.runs
    assert result.is_settled, f"{of}no run stays open and no message stays"
    assert len(run.reports) == 1, f"{of}one end is reported: {run.reports}"
    assert not run.reopened, f"{of}nothing is sent after the end: {run.reopened}"
    most = 1 + result.killed  # A runner that was killed cannot know whether the coordinator has it.
    assert run.started_reports <= most, f"{of}the start is reported {run.started_reports} times"
    assert len(run.results) == (run.status == "completed"), f"{of}{run.status}, with the results {run.results}"
    world, visits = result.world, visits_of(result)
    assert world is not None
    states = world.workflow.definition.states
    for state, count in Counter(visit.state for visit in visits).items():
        assert count <= (states[state].max_visits or count), f"{of}{count} visits of {state}"
    for before, after in itertools.pairwise(visits):
        assert before.target == after.state, f"{of}{before} leads to {after}"
    if run.status != "stopped" and visits:
        assert visits[-1].ending is not None, f"{of}{visits[-1]} has no end"
    check_begins(world, of)
    for number, is_approved in world.acknowledged.items():
        if number <= len(visits) and visits[number - 1].ending is not None:
            assert (visits[number - 1].ending == "done") == is_approved, (
                f"{of}the decision counts: {visits[number - 1]}"
            )


def check_begins(world: WorkflowWorld, of: str) -> None:
    """Each process continues with the visit that is open in the journal, or else with the next one."""
    expected, process = 1, -1
    due_s: dict[int, float | None] = {}
    for begin in world.begins:
        if begin.process != process:
            process, start = begin.process, world.starts[begin.process]
            expected = start.last_number + 1
            if start.open_number is not None and begin.number == start.open_number:
                expected = start.open_number
        assert begin.number == expected, f"{of}{begin} instead of visit {expected}"
        assert due_s.setdefault(begin.number, begin.due_s) == begin.due_s, f"{of}{begin}: the deadline has moved"
        expected += 1


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


@pytest.mark.parametrize("lost", [0, 100])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_workflow_whose_states_are_repeated_takes_the_same_path_after_a_kill_at_any_point(
    name: str, lost: int
) -> None:
    setup = setup_of(REPEATED, SCRIPTS[name])
    reference = executed(setup)
    check(reference, "")
    at_point, was_killed = FIRST_POINT - 1, True
    while was_killed:
        at_point += 1
        kill = Kill(at_point=at_point, lost=lost, down_s=at_point % 3)
        result = executed(msgspec.structs.replace(setup, ends=(kill,)))
        was_killed = result.killed > 0
        check(result, f"{kill}: ")
        assert visits_of(result) == visits_of(reference), kill
        assert result.runs[0].status == reference.runs[0].status, kill
    assert at_point > FIRST_POINT + 20
