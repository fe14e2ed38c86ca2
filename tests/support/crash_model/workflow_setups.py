"""Workflows for the crash model, own and bundled ones, and what must hold after each simulation."""

import itertools
import random
import re
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

from fsm_runner.protocol.json_text import decode_json
from fsm_runner.workflow.file import LoadedWorkflow, load_workflow, restore_workflow
from fsm_runner.workflow.scenarios import SUFFIX, read_scenarios, scenarios_path
from tests.support.crash_model.runner import PlannedRun, Setup, SimulationResult, simulate
from tests.support.crash_model.workflow import Result, Script, WorkflowWorld, script_of, scripted
from tests.support.crash_model.workflow_replay import WorkflowReplay
from tests.support.program import REPOSITORY
from tests.support.virtual_time import run_virtually

RUN = "run_0"
REPEATED = """
name = "repeated"
initial = "draft"
budget = { max_wall_s = 100000 }
result = { text = "${verify.exit_code}", data = { by = "${ask.by}", done = "${work.ok}" } }

[states.draft]
turn = { prompt = "draft" }
timeout_s = 60
on_interrupted = "repeat"
on_done = "verify"

[states.verify]
command = { run = ["./verify"] }
timeout_s = 60
on_interrupted = "repeat"
on_done = [{ when = "1 / (1 - verify.exit_code) == 1", to = "rest" }, { to = "failed" }]
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
timeout_s = 6
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
DONE = Result(value={"exit_code": 0})
FAILS = Result(ending="error", value={"exit_code": 1})
DENIES = Result(ending="denied", takes_s=2.0)
SCRIPTS = {
    "straight": scripted({}, DONE),
    "with two corrections": scripted({"verify": (FAILS, FAILS, DONE)}, DONE),
    "denied once": scripted({"ask": (DENIES, Result(takes_s=2.0))}, DONE),
    "denied until used up": scripted({"ask": (DENIES,)}, DONE),
    "never verified": scripted({"verify": (FAILS,)}, DONE),
    "cannot be evaluated": scripted({"verify": (Result(value={"exit_code": 1}),)}, DONE),
    "undecided": scripted({"ask": (Result(takes_s=None),)}, DONE),
}


def workflow_of(text: str) -> LoadedWorkflow:
    return restore_workflow("w.toml", text, {})


class Visit(NamedTuple):
    """A visit as the journal has it, but for the time of a decision, which an interruption delays."""

    state: str
    ending: str | None
    target: str | None
    value: dict[str, Any] | None


def _without_time(value: dict[str, Any]) -> dict[str, Any]:
    return {name: field for name, field in value.items() if name != "at"}


def visits_of(result: SimulationResult) -> list[Visit]:
    replay = WorkflowReplay()
    for call in result.calls:
        if hasattr(WorkflowReplay, call.method):
            getattr(replay, call.method)(*call.arguments)
    return [
        Visit(it.state, it.ending, it.target, None if it.value is None else _without_time(decode_json(it.value)))
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
    is_completed, results = run.status == "completed", len(run.results)
    # As for a run without a workflow, the result may be known before the end of its last turn is on disk.
    may_be_known = "its work may have been done" in (run.error or "")
    assert results == is_completed or (results == 1 and may_be_known), f"{of}{run.status}, with {run.results}"
    world, visits = result.world, visits_of(result)
    assert world is not None
    states = world.workflow.definition.states
    for state, count in Counter(visit.state for visit in visits).items():
        assert count <= (states[state].max_visits or count), f"{of}{count} visits of {state}"
    for before, after in itertools.pairwise(visits):
        assert before.target == after.state, f"{of}{before} leads to {after}"
    is_given_up = "it is not continued again" in (run.error or "")
    if run.status != "stopped" and visits and not is_given_up:
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
        if world.has_limits and world.workflow.definition.states[begin.state].turn is not None:
            if begin.number == expected - 1:
                continue  # The turn continues after a limit, which has moved its deadline.
            due_s[begin.number] = begin.due_s
        assert begin.number == expected, f"{of}{begin} instead of visit {expected}"
        assert due_s.setdefault(begin.number, begin.due_s) == begin.due_s, f"{of}{begin}: the deadline has moved"
        expected += 1


def certain(visit: Visit) -> Visit:
    """Return a visit without the result of a turn that was late: a turn whose time is over is not begun again."""
    if visit.ending != "timeout" or visit.value is None:
        return visit
    return visit._replace(value={name: it for name, it in visit.value.items() if name != "result"})


def check_same(result: SimulationResult, reference: SimulationResult, of: str) -> None:
    assert [*map(certain, visits_of(result))] == [*map(certain, visits_of(reference))], of
    assert (result.runs[0].status, result.runs[0].error) == (reference.runs[0].status, reference.runs[0].error), of


BUNDLED = {
    f"{path.stem}: {scenario.name}": (path, scenario)
    for path in sorted((REPOSITORY / "workflows").glob("*.toml"))
    if not path.name.endswith(SUFFIX)
    for scenario in read_scenarios(scenarios_path(path), load_workflow(path)).scenarios
}


def bundled_setup(name: str, script: Script | None = None, **fields: Any) -> Setup:
    """Return the setup of a scenario of a bundled workflow, with short time limits."""
    path, scenario = BUNDLED[name]
    text = re.sub(r"^timeout_s = \d+", "timeout_s = 8", path.read_text(), flags=re.MULTILINE)
    workflow = load_workflow(path)
    workflow = restore_workflow(str(path), text, workflow.schemas)
    return Setup(
        plans=(PlannedRun(parameters=scenario.parameters, **fields),),
        workflow=(workflow, script or script_of(workflow, scenario)),
        operator_stops_after_s=20_000.0,
    )


def setups() -> dict[str, Setup]:
    own = {f"repeated: {name}": setup_of(REPEATED, script) for name, script in SCRIPTS.items()}
    return {**own, **{name: bundled_setup(name) for name in BUNDLED}}
