"""Runs a machine: one event at a time, synchronously, for any number of models.

One `Machine` serves all models of its kind and keeps no list of them, so a model costs little. The activities of a
state are the actor's business (`fsm_runner/runtime/actors/actor.py`).
"""

import logging
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import NamedTuple

import transitions

from fsm_runner.machine.groups import flatten
from fsm_runner.machine.spec import OUTCOME_GUARD, Spec, Transition

# The library logs each step at INFO, which costs more than the step itself.
logging.getLogger("transitions").setLevel(logging.WARNING)


@dataclass(slots=True, eq=False)
class Model:
    """The state of one actor in its machine."""

    state: str
    outcome: str | None = None
    provisional: bool = False
    """Whether a transition with `provisional` decided the outcome."""
    facts: frozenset[str] = frozenset()
    """The guards that hold, other than those about the outcome. The actor sets them."""


class Answer(Enum):
    """The reaction of a state to an event."""

    TAKEN = "taken"
    IGNORED = "ignored"
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
        return self.answer is Answer.TAKEN


class UnexpectedEvent(Exception):
    """The spec has no answer to this event in this state: a defect of the actor, not of its input."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"machine {machine}: state {state!r} has no answer to the event {event!r}")


class Machine:
    """Executes a sound spec. `check` must have accepted it, because nothing is validated here.

    A guard `outcome_is_…` holds if that outcome has been decided, any other one while its name is in `Model.facts`.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec = flatten(spec)
        """The spec without groups."""
        used = [transition for transition in spec.transitions if transition.sources]
        self._final = frozenset(name for name, state in spec.states.items() if state.final)
        self._tagged = frozenset((name, tag) for name, state in spec.states.items() for tag in state.tags)
        self._answers = {(source, it.event): Answer.TAKEN for it in used for source in it.sources}
        self._causes: dict[tuple[str, str], Cause] = {}
        for name, state in spec.states.items():
            self._answers |= {(name, event): Answer.IGNORED for event in state.ignore}
            self._answers |= {(name, event): Answer.REJECTED for event in state.reject}
            for cause in reversed(Cause):
                if (event := getattr(state, cause.value)) is not None:
                    self._causes[name, event] = cause
        machine = transitions.Machine(
            model=None,
            states=list(spec.states),
            initial=spec.initial,
            transitions=[_library_transition(transition) for transition in used],
            auto_transitions=False,
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
        answer = Answer.IGNORED if source in self._final else self._answers.get((source, event))
        if answer is None:
            raise UnexpectedEvent(self.spec.name, source, event)
        if answer is Answer.TAKEN:
            # The library hands only the second argument on to guards and decisions.
            self._events[event].trigger(model, model)
        return Step(event, source, model.state, answer, cause or self._causes.get((source, event)) or event)


def _library_transition(transition: Transition) -> dict[str, object]:
    return {
        "trigger": _trigger(transition.event),
        "source": list(transition.sources),
        "dest": transition.to,
        "conditions": [partial(_holds, transition.guard)] if transition.guard is not None else [],
        "before": [partial(_decide, transition)] if transition.decides is not None else [],
    }


def _trigger(event: str) -> str:
    """The library refuses some names for its triggers, such as `state`; a spec may use any."""
    return f"on {event}"


def _holds(guard: str, model: Model) -> bool:
    if guard.startswith(OUTCOME_GUARD):
        return model.outcome == guard.removeprefix(OUTCOME_GUARD)
    return guard in model.facts


def _decide(transition: Transition, model: Model) -> None:
    if model.outcome is None:
        model.outcome, model.provisional = transition.decides, transition.provisional
