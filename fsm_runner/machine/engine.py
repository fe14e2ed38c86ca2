"""Runs a machine: one event at a time, synchronously, for any number of models.

One `Machine` serves all models of its kind. They are not registered with it, so a model costs a state and an
outcome and nothing more; what a state *does* is its actor's business (`fsm_runner/runtime/actors/actor.py`).
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
    """What the machine knows of one subject: where it is, what has been settled, and what its actor says of it."""

    __slots__ = ("facts", "outcome", "provisional", "state")

    def __init__(self, initial: str) -> None:
        self.state = initial
        self.outcome: str | None = None
        self.provisional = False
        """Whether the outcome was settled by a transition that is `provisional`."""
        self.facts: frozenset[str] = frozenset()


Guard = Callable[[Model], bool]


class Answer(Enum):
    """What a state did with an event."""

    TAKEN = "taken"
    """A transition was taken."""
    IGNORED = "ignored"
    """Nothing changed."""
    REJECTED = "rejected"
    """Nothing changed, and the spec wants the poster of the event to learn it."""


class Cause(Enum):
    """Why a state itself caused an event, whatever its spec calls the event."""

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
    """For an event that the source state caused, how; otherwise the event."""

    @property
    def taken(self) -> bool:
        """Whether a transition was taken: the source was left and the target entered."""
        return self.answer is Answer.TAKEN


class UnexpectedEvent(Exception):
    """The spec says nothing about this event in this state: a defect of the actor, not of its input."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"machine {machine}: state {state!r} has no answer to the event {event!r}")


class Machine:
    """Executes a sound spec. `check` must have accepted it, because nothing is validated here.

    A guard `outcome_is_…` holds if that outcome has been settled, any other one while its name is in `Model.facts`.
    `guards` replaces the predicates of the guards that it names.
    """

    def __init__(self, spec: Spec, guards: Mapping[str, Guard] | None = None) -> None:
        self.spec = spec = flatten(spec)
        self._tagged = frozenset((name, tag) for name, state in spec.states.items() for tag in state.tags)
        self._final = frozenset(name for name, state in spec.states.items() if state.final)
        self._ignored = frozenset((name, event) for name, state in spec.states.items() for event in state.ignore)
        self._rejected = frozenset((name, event) for name, state in spec.states.items() for event in state.reject)
        self._causes: dict[tuple[str, str], Cause] = {
            (name, event): cause
            for name, state in spec.states.items()
            for cause in reversed(Cause)
            if (event := getattr(state, cause.value)) is not None
        }
        self._decided = frozenset((source, rule.event) for rule in spec.transitions for source in rule.sources)
        machine = transitions.Machine(
            model=None,
            states=list(spec.states),
            initial=spec.initial,
            transitions=[_library_form(rule, guards or {}) for rule in spec.transitions if rule.sources],
            auto_transitions=False,
            send_event=True,
        )
        self._events = {rule.event: machine.events[_trigger(rule.event)] for rule in spec.transitions if rule.sources}

    def model(self) -> Model:
        """A new subject in the initial state."""
        return Model(self.spec.initial)

    def is_final(self, model: Model) -> bool:
        return model.state in self._final

    def has_tag(self, subject: Model | str, tag: str) -> bool:
        """Whether the state, or the state that the model is in, has this tag. A state that is not declared has none."""
        return (subject.state if isinstance(subject, Model) else subject, tag) in self._tagged

    def fire(self, model: Model, event: str, cause: Cause | None = None) -> Step:
        """Give one event to a model and return what the model's state did with it.

        A final state ignores every event, because it arrived too late. `cause` says how the state caused the event; if
        it is None, the first of `on_done`, `on_error` and `on_timeout` counts that the spec gives this name.

        Raises `UnexpectedEvent` if the spec has no answer to the event in this state.
        """
        source = model.state
        because = cause or self._causes.get((source, event)) or event
        if source in self._final or (source, event) in self._ignored:
            return Step(event, source, source, Answer.IGNORED, because)
        if (source, event) in self._rejected:
            return Step(event, source, source, Answer.REJECTED, because)
        if (source, event) not in self._decided:
            raise UnexpectedEvent(self.spec.name, source, event)
        self._events[event].trigger(model)
        return Step(event, source, model.state, Answer.TAKEN, because)


def _library_form(rule: Transition, guards: Mapping[str, Guard]) -> dict[str, object]:
    form: dict[str, object] = {"trigger": _trigger(rule.event), "source": list(rule.sources), "dest": rule.to}
    if rule.guard is not None:
        form["conditions"] = _condition(guards.get(rule.guard) or _guard(rule.guard))
    if rule.decides is not None:
        form["before"] = _decision(rule.decides, rule.provisional)
    return form


def _trigger(event: str) -> str:
    """The library refuses some names for its triggers, such as `state`; a spec may use any."""
    return f"on {event}"


def _condition(guard: Guard) -> Callable[[transitions.EventData], bool]:
    return lambda event: guard(_model(event))


def _decision(outcome: str, provisional: bool) -> Callable[[transitions.EventData], None]:
    def settle(event: transitions.EventData) -> None:
        model = _model(event)
        if model.outcome is None:
            model.outcome, model.provisional = outcome, provisional

    return settle


def _model(event: transitions.EventData) -> Model:
    return cast(Model, event.model)


def _guard(name: str) -> Guard:
    outcome = name.removeprefix(OUTCOME_GUARD)
    if outcome != name:
        return lambda model: model.outcome == outcome
    return lambda model: name in model.facts
