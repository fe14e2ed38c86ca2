"""A run may be stopped in every state of its workflow, and the time limit of every state applies."""

from collections import defaultdict
from functools import partial

import msgspec

from tests.support.crash_model.runner import Drain, Setup
from tests.support.crash_model.workflow import Result, Script
from tests.support.crash_model.workflow_setups import Visit, check, check_same, executed, setups, visits_of


def workflow_name(setup: Setup) -> str:
    assert setup.workflow is not None
    return setup.workflow[0].definition.name


def states_with(setup: Setup, key: str) -> set[str]:
    """Return the states of a workflow's machine that have an activity, or a time limit of their own."""
    assert setup.workflow is not None
    workflow = setup.workflow[0]
    active = {name for name, state in workflow.spec.states.items() if state.invoke is not None}
    return {name for name in active if key == "invoke" or workflow.definition.states[name].timeout_s is not None}


def waiting_states(setup: Setup) -> set[str]:
    assert setup.workflow is not None
    states = setup.workflow[0].definition.states
    return {name for name, state in states.items() if state.activities.keys() & {"approval", "wait", "agent"}}


def test_a_run_may_be_stopped_in_every_state() -> None:
    stopped: defaultdict[str, set[str]] = defaultdict(set)
    for name, setup in setups().items():
        reference = executed(setup)
        assert reference.world is not None
        for begin in reference.world.begins:
            of = f"{name}: {begin}: "
            plan = msgspec.structs.replace(setup.plans[0], stops_at_s=begin.at_s + 0.1)
            result = executed(msgspec.structs.replace(setup, plans=(plan,)))
            check(result, of)
            assert result.runs[0].status == "stopped", of
            assert result.world is not None
            assert result.world.begins[-1].number == begin.number, of
            assert visits_of(result)[-1] == Visit(begin.state, "stopped", None, None), of
            stopped[workflow_name(setup)].add(begin.state)
    for setup in setups().values():
        assert stopped[workflow_name(setup)] == states_with(setup, "invoke")


def test_a_runner_may_drain_in_every_state() -> None:
    """The runner's next process continues a run that waits. Another run continues until it waits, or ends."""
    left: defaultdict[str, set[str]] = defaultdict(set)
    for name, setup in setups().items():
        reference = executed(setup)
        assert reference.world is not None
        for begin in reference.world.begins:
            of = f"{name}: {begin}: "
            drain = Drain(at_s=begin.at_s + 0.1, down_s=1.0)
            result = executed(msgspec.structs.replace(setup, ends=(drain,), has_journal_file=True))
            check(result, of)
            check_same(result, reference, of)
            assert result.world is not None
            if result.world.starts[-1].open_number == begin.number:
                left[workflow_name(setup)].add(begin.state)
    for setup in setups().values():
        assert left[workflow_name(setup)] == waiting_states(setup)


def test_the_time_limit_of_every_state_applies() -> None:
    late: defaultdict[str, set[str]] = defaultdict(set)
    for name, setup in setups().items():
        reference = executed(setup)
        assert setup.workflow is not None
        assert reference.world is not None
        workflow, script = setup.workflow
        for begin in reference.world.begins:
            if begin.state not in states_with(setup, "timeout_s"):
                continue
            hanging = partial(hanging_in, begin.state, begin.visit, script)
            result = executed(msgspec.structs.replace(setup, workflow=(workflow, hanging)))
            of = f"{name}: {begin}: "
            check(result, of)
            visit = visits_of(result)[begin.number - 1]
            is_approval = workflow.definition.states[begin.state].approval is not None
            assert (visit.state, visit.ending) == (begin.state, "denied" if is_approval else "timeout"), of
            assert visit.value is not None
            assert not visit.value["ok"], of
            late[workflow_name(setup)].add(begin.state)
    for setup in setups().values():
        assert late[workflow_name(setup)] == states_with(setup, "timeout_s")


def hanging_in(state: str, visit: int, script: Script, its_state: str, its_visit: int) -> Result:
    result = script(its_state, its_visit)
    is_late = (its_state, its_visit) == (state, visit)
    return msgspec.structs.replace(result, takes_s=None) if is_late else result
