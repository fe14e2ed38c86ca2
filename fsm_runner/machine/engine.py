"""Runs a machine: one event at a time, synchronously, for any number of models.

One `Machine` serves all models of its kind and keeps no list of them, so a model costs little. The activities of a
state are the actor's business (`fsm_runner/runtime/actors/actor.py`).
"""

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple, cast

import transitions

from fsm_runner.machine.groups import flatten
from fsm_runner.machine.spec import OUTCOME_GUARD, Spec, Transition

# The library logs each step at INFO, which costs more than the step itself.
logging.getLogger("transitions").setLevel(logging.WARNING)


class Model:
    """The state of one run, session or runner in its machine."""

    __slots__ = ("facts", "outcome", "provisional", "state")

    def __init__(self, initial: str) -> None:
        self.state = initial
        self.outcome: str | None = None
        self.provisional = False
        """Whether a transition with `provisional` decided the outcome."""
        self.facts: frozenset[str] = frozenset()
        """The guards that hold, other than those about the outcome. The actor sets them."""


Guard = Callable[[Model], bool]


class Answer(Enum):
    """The reaction of a state to an event."""

    TAKEN = "taken"
    """The machine took a transition."""
    IGNORED = "ignored"
    """Nothing changed."""
    REJECTED = "rejected"
    """Nothing changed, and the sender of the event should learn that."""


class Cause(Enum):
    """How a state caused an event of its own, whatever its spec calls the event."""

    DONE = "on_done"
    ERROR = "on_error"
    TIMEOUT = "on_timeout"


class Step(NamedTuple):
    """The result of one event."""

    event: str
    source: str
    target: str
    answer: Answer
    cause: Cause | str
    """How the source state caused the event; for an event from outside, the event."""

    @property
    def taken(self) -> bool:
        """Whether the machine took a transition: it left the source and entered the target."""
        return self.answer is Answer.TAKEN


class UnexpectedEvent(Exception):
    """The spec has no answer to this event in this state: a defect of the actor, not of its input."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"machine {machine}: state {state!r} has no answer to the event {event!r}")


class Machine:
    """Executes a sound spec. `check` must have accepted it, because nothing is validated here.

    A guard `outcome_is_…` holds if that outcome has been decided, any other one while its name is in `Model.facts`.
    `guards` replaces the predicates of the guards that it names.
    """

    def __init__(self, spec: Spec, guards: Mapping[str, Guard] | None = None) -> None:
        self.spec = spec = flatten(spec)
        """The spec without groups."""
        states = spec.states.items()
        used = [transition for transition in spec.transitions if transition.sources]
        self._final = frozenset(name for name, state in states if state.final)
        self._tagged = frozenset((name, tag) for name, state in states for tag in state.tags)
        self._ignored = frozenset((name, event) for name, state in states for event in state.ignore)
        self._rejected = frozenset((name, event) for name, state in states for event in state.reject)
        self._handled = frozenset((source, transition.event) for transition in used for source in transition.sources)
        self._causes: dict[tuple[str, str], Cause] = {
            (name, event): cause
            for name, state in states
            for cause in reversed(Cause)
            if (event := getattr(state, cause.value)) is not None
        }
        machine = transitions.Machine(
            model=None,
            states=list(spec.states),
            initial=spec.initial,
            transitions=[_library_transition(transition, guards or {}) for transition in used],
            auto_transitions=False,
            send_event=True,
        )
        self._events = {transition.event: machine.events[_trigger(transition.event)] for transition in used}

    def model(self) -> Model:
        """Return a new model in the initial state."""
        return Model(self.spec.initial)

    def is_final(self, model: Model) -> bool:
        return model.state in self._final

    def has_tag(self, subject: Model | str, tag: str) -> bool:
        """Whether the state, or the state that the model is in, has this tag. An undeclared state has none."""
        return (subject.state if isinstance(subject, Model) else subject, tag) in self._tagged

    def fire(self, model: Model, event: str, cause: Cause | None = None) -> Step:
        """Give one event to a model and return the reaction of the model's state.

        A final state ignores every event, because it arrived too late. `cause` says how the state caused the event. If
        it is None, the first of `on_done`, `on_error` and `on_timeout` counts that has this name in the spec.

        Raises `UnexpectedEvent` if the spec has no answer to the event in this state.
        """
        source = model.state
        why = cause or self._causes.get((source, event)) or event
        if source in self._final or (source, event) in self._ignored:
            return Step(event, source, source, Answer.IGNORED, why)
        if (source, event) in self._rejected:
            return Step(event, source, source, Answer.REJECTED, why)
        if (source, event) not in self._handled:
            raise UnexpectedEvent(self.spec.name, source, event)
        self._events[event].trigger(model)
        return Step(event, source, model.state, Answer.TAKEN, why)


def _library_transition(transition: Transition, guards: Mapping[str, Guard]) -> dict[str, object]:
    form: dict[str, object] = {
        "trigger": _trigger(transition.event),
        "source": list(transition.sources),
        "dest": transition.to,
    }
    if transition.guard is not None:
        form["conditions"] = _condition(guards.get(transition.guard) or _guard(transition.guard))
    if transition.decides is not None:
        form["before"] = _decision(transition.decides, transition.provisional)
    return form


def _trigger(event: str) -> str:
    """The library refuses some names for its triggers, such as `state`; a spec may use any."""
    return f"on {event}"


def _condition(guard: Guard) -> Callable[[transitions.EventData], bool]:
    return lambda event: guard(_model(event))


def _decision(outcome: str, provisional: bool) -> Callable[[transitions.EventData], None]:
    def decide(event: transitions.EventData) -> None:
        model = _model(event)
        if model.outcome is None:
            model.outcome, model.provisional = outcome, provisional

    return decide


def _model(event: transitions.EventData) -> Model:
    return cast(Model, event.model)


def _guard(name: str) -> Guard:
    outcome = name.removeprefix(OUTCOME_GUARD)
    if outcome != name:
        return lambda model: model.outcome == outcome
    return lambda model: name in model.facts
