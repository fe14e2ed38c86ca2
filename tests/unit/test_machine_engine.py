"""The engine: each event has exactly one result."""

import tomllib
from typing import NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fsm_runner.machine.decoder import decode
from fsm_runner.machine.engine import Answer, Machine, Model, Step, UnexpectedEvent
from fsm_runner.machine.spec import Spec, State, Transition

DOOR = """
name = "door"
initial = "closed and locked"

[events]
"turn the key" = "With the right key."
knock = "Nobody hears it while the door is open."

[states."closed and locked"]
[states.closed]
[states.open]
ignore = ["knock"]
[states.gone]
final = true
outcome = "sold"

[[transitions]]
from = ["closed and locked"]
event = "turn the key"
to = "closed"
decides = "used"

[[transitions]]
from = "closed"
event = "turn the key"
to = "closed and locked"

[[transitions]]
from = "closed"
event = "push"
to = "open"

[[transitions]]
from = ["closed", "closed and locked"]
event = "knock"
to = "open"
guard = "outcome_is_used"

[[transitions]]
from = ["closed", "closed and locked"]
event = "knock"
to = "closed and locked"

[[transitions]]
from = ["closed", "closed and locked", "open"]
event = "sell"
to = "gone"
decides = "sold"
"""


def spec_of(text: str) -> Spec:
    decoded = decode(tomllib.loads(text))
    assert not decoded.problems
    return decoded.spec


@pytest.fixture
def door() -> Machine:
    return Machine(spec_of(DOOR))


def test_a_model_starts_in_the_initial_state_without_an_outcome(door: Machine) -> None:
    model = door.model()
    assert (model.state, model.outcome) == ("closed and locked", None)
    assert not door.is_final(model)


def test_names_may_contain_spaces(door: Machine) -> None:
    model = door.model()
    assert door.fire(model, "turn the key") == Step(
        "turn the key", "closed and locked", "closed", Answer.TAKEN, "turn the key"
    )
    assert model.state == "closed"


def test_a_transition_to_the_same_state_is_taken(door: Machine) -> None:
    model = door.model()
    assert door.fire(model, "knock") == Step("knock", "closed and locked", "closed and locked", Answer.TAKEN, "knock")


def test_an_ignored_event_changes_nothing(door: Machine) -> None:
    model = at(door, "open")
    assert door.fire(model, "knock") == Step("knock", "open", "open", Answer.IGNORED, "knock")
    assert (model.state, model.outcome) == ("open", None)


@pytest.mark.parametrize("event_name", ["push", "no such event", "", "trigger", "to_open"])
def test_an_event_without_an_answer_raises(door: Machine, event_name: str) -> None:
    model = door.model()
    with pytest.raises(UnexpectedEvent, match="machine door: state 'closed and locked' has no answer") as unexpected:
        door.fire(model, event_name)
    assert repr(event_name) in str(unexpected.value)
    assert model.state == "closed and locked"


@pytest.mark.parametrize("event_name", ["push", "sell", "knock", "no such event"])
def test_a_final_state_ignores_every_event(door: Machine, event_name: str) -> None:
    model = at(door, "gone")
    assert door.is_final(model)
    assert door.fire(model, event_name) == Step(event_name, "gone", "gone", Answer.IGNORED, event_name)


def test_a_guard_is_evaluated_for_the_model_of_the_event(door: Machine) -> None:
    fresh, used = door.model(), door.model()
    used.outcome = "used"
    assert door.fire(fresh, "knock").target == "closed and locked"
    assert door.fire(used, "knock").target == "open"


def test_a_decided_outcome_does_not_change(door: Machine) -> None:
    model = door.model()
    door.fire(model, "turn the key")
    door.fire(model, "sell")
    assert (model.state, model.outcome) == ("gone", "used")


class FactsThatRaise(frozenset[str]):
    def __contains__(self, name: object) -> bool:
        raise ZeroDivisionError(name)


def test_an_ignored_event_evaluates_no_guard() -> None:
    door = Machine(spec_of(DOOR.replace("outcome_is_used", "is_used")))
    model = at(door, "open")
    model.facts = FactsThatRaise()
    assert door.fire(model, "knock").answer is Answer.IGNORED


def test_a_guard_that_raises_leaves_the_model_unchanged() -> None:
    door = Machine(spec_of(DOOR.replace("outcome_is_used", "is_used")))
    model = door.model()
    model.facts = FactsThatRaise()
    with pytest.raises(ZeroDivisionError):
        door.fire(model, "knock")
    assert model.state == "closed and locked"
    assert door.fire(model, "turn the key").taken


def test_models_share_a_machine_and_not_their_states(door: Machine) -> None:
    models = [door.model() for _ in range(1000)]
    for model in models[::2]:
        door.fire(model, "turn the key")
    assert {model.state for model in models[::2]} == {"closed"}
    assert {(model.state, model.outcome) for model in models[1::2]} == {("closed and locked", None)}


def test_a_model_has_no_dict(door: Machine) -> None:
    assert not hasattr(door.model(), "__dict__")


def at(machine: Machine, state: str) -> Model:
    model = machine.model()
    model.state = state
    return model


# Against a table.

STATES = ("a", "b b", "c.c", "d_d")
FINAL = "the end"
EVENTS = ("e", "f f", "to_a", "trigger", "state")
OUTCOMES = (None, "won", "lost")


class Way(NamedTuple):
    """One row of the table: the transitions of a state for an event, guarded ones first."""

    guarded: tuple[tuple[str, str, str | None], ...]
    """Guard, target, decided outcome."""
    otherwise: tuple[str, str | None]


targets = st.sampled_from([*STATES, FINAL])
outcomes = st.sampled_from(OUTCOMES)
ways = st.builds(
    Way,
    st.lists(
        st.tuples(st.sampled_from(["outcome_is_won", "outcome_is_lost"]), targets, outcomes),
        max_size=2,
        unique_by=lambda way: way[0],
    ).map(tuple),
    st.tuples(targets, outcomes),
)
tables = st.dictionaries(
    st.tuples(st.sampled_from(STATES), st.sampled_from(EVENTS)), ways | st.just("ignore"), max_size=16
)


def machine_of(table: dict[tuple[str, str], Way | str]) -> Machine:
    transitions = []
    for (source, event_name), way in table.items():
        if isinstance(way, Way):
            for guard, target, decides in way.guarded:
                transitions.append(Transition(source=source, event=event_name, to=target, guard=guard, decides=decides))
            target, decides = way.otherwise
            transitions.append(Transition(source=source, event=event_name, to=target, decides=decides))
    states = {
        name: State(
            ignore=tuple(event_name for (state, event_name), way in table.items() if state == name and way == "ignore")
        )
        for name in STATES
    }
    spec = Spec(
        name="random",
        initial="a",
        events=dict.fromkeys(EVENTS, ""),
        states=states | {FINAL: State(final=True)},
        transitions=tuple(transitions),
    )
    return Machine(spec)


def answer(
    table: dict[tuple[str, str], Way | str], model: Model, event_name: str
) -> tuple[str, str | None, bool] | None:
    """Return the state, the outcome and whether a transition was taken; None if the table has no row."""
    if model.state == FINAL:
        return FINAL, model.outcome, False
    way = table.get((model.state, event_name))
    if way is None:
        return None
    if not isinstance(way, Way):
        return model.state, model.outcome, False
    held = [(target, decides) for guard, target, decides in way.guarded if guard == f"outcome_is_{model.outcome}"]
    target, decides = held[0] if held else way.otherwise
    return target, model.outcome or decides, True


@settings(deadline=None)
@given(tables, st.lists(st.tuples(st.integers(0, 2), st.sampled_from([*EVENTS, "unheard of"])), max_size=30))
def test_a_machine_does_the_same_as_a_table(
    table: dict[tuple[str, str], Way | str], fired: list[tuple[int, str]]
) -> None:
    machine = machine_of(table)
    models = [machine.model() for _ in range(3)]
    for number, event_name in fired:
        model = models[number]
        source = model.state
        expected = answer(table, model, event_name)
        if expected is None:
            with pytest.raises(UnexpectedEvent):
                machine.fire(model, event_name)
            assert model.state == source
            continue
        step = machine.fire(model, event_name)
        event("taken" if step.taken else "not taken")
        assert (model.state, model.outcome, step.taken) == expected
        assert step == Step(event_name, source, model.state, step.answer, event_name)
