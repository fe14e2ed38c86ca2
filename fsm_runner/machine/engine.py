"""Runs a machine: one event at a time, synchronously, for any number of models.

One `Machine` serves all models of its kind. They are not registered with it, so a model costs a state and an
outcome and nothing more; what a state *does* is its actor's business (`fsm_runner/runtime/actors/actor.py`).
"""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import transitions

from fsm_runner.machine.spec import Spec, Transition

# The library logs each step at INFO, which costs more than the step itself.
logging.getLogger("transitions").setLevel(logging.WARNING)


class Model:
    """What the machine knows of one subject: where it is, what has been settled, and what its actor says of it."""

    __slots__ = ("facts", "outcome", "state")

    def __init__(self, initial: str) -> None:
        self.state = initial
        self.outcome: str | None = None
        self.facts: frozenset[str] = frozenset()


Guard = Callable[[Model], bool]


class Step(NamedTuple):
    """What became of one event."""

    event: str
    source: str
    target: str
    taken: bool
    """False where the state ignores the event: nothing was left and nothing entered."""


class UnexpectedEvent(Exception):
    """The spec says nothing about this event in this state: a defect of the actor, not of its input."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"machine {machine}: state {state!r} has no answer to the event {event!r}")


class Machine:
    """Executes a sound spec (`check` finds what is unsound; nothing of that is looked at again here).

    `guards` holds a predicate for each guard that the spec names.
    """

    def __init__(self, spec: Spec, guards: Mapping[str, Guard] | None = None) -> None:
        self.spec = spec
        self._final = frozenset(name for name, state in spec.states.items() if state.final)
        self._ignored = frozenset((name, event) for name, state in spec.states.items() for event in state.ignore)
        self._decided = frozenset((source, rule.event) for rule in spec.transitions for source in rule.sources)
        machine = transitions.Machine(
            model=None,
            states=list(spec.states),
            initial=spec.initial,
            transitions=[_library_form(rule, guards or {}) for rule in spec.transitions],
            auto_transitions=False,
            send_event=True,
        )
        self._events = {rule.event: machine.events[_trigger(rule.event)] for rule in spec.transitions}

    def model(self) -> Model:
        """A new subject in the initial state."""
        return Model(self.spec.initial)

    def is_final(self, model: Model) -> bool:
        return model.state in self._final

    def fire(self, model: Model, event: str) -> Step:
        """Give one event to a model and say what became of it.

        A final state takes no event at all: whatever arrives there came too late.

        Raises `UnexpectedEvent` where the spec decides nothing about the pair.
        """
        source = model.state
        if source in self._final or (source, event) in self._ignored:
            return Step(event, source, source, taken=False)
        if (source, event) not in self._decided:
            raise UnexpectedEvent(self.spec.name, source, event)
        self._events[event].trigger(model)
        return Step(event, source, model.state, taken=True)


def _library_form(rule: Transition, guards: Mapping[str, Guard]) -> dict[str, object]:
    form: dict[str, object] = {"trigger": _trigger(rule.event), "source": list(rule.sources), "dest": rule.to}
    if rule.guard is not None:
        form["conditions"] = _condition(guards[rule.guard])
    if rule.decides is not None:
        form["before"] = _decision(rule.decides)
    return form


def _trigger(event: str) -> str:
    """The library refuses some names for its triggers, such as `state`; a spec may use any."""
    return f"on {event}"


def _condition(guard: Guard) -> Callable[[transitions.EventData], bool]:
    return lambda event: guard(_model(event))


def _decision(outcome: str) -> Callable[[transitions.EventData], None]:
    def settle(event: transitions.EventData) -> None:
        model = _model(event)
        if model.outcome is None:
            model.outcome = outcome

    return settle


def _model(event: transitions.EventData) -> Model:
    return cast(Model, event.model)


def outcome_is(outcome: str) -> Guard:
    """The guard that holds when this outcome has been settled."""
    return lambda model: model.outcome == outcome


def fact(name: str) -> Guard:
    """The guard that holds while the actor says so, in `Model.facts`."""
    return lambda model: name in model.facts
