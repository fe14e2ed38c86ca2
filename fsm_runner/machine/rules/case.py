"""What a rule looks at, and what a rule is."""

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import NamedTuple

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.spec import ActorInterface, Spec, State, Transition


class Case:
    """A spec with the questions that several rules ask about it."""

    def __init__(self, spec: Spec, vocabulary: ActorInterface | None, damaged_states: Collection[str] = ()) -> None:
        self.spec = spec
        self.vocabulary = vocabulary
        self.damaged_states = damaged_states

    @cached_property
    def work(self) -> list[tuple[str, State]]:
        """The states that something can still happen in."""
        return [(name, state) for name, state in self.spec.states.items() if not state.final]

    @cached_property
    def final(self) -> list[tuple[str, State]]:
        return [(name, state) for name, state in self.spec.states.items() if state.final]

    @cached_property
    def by_pair(self) -> dict[tuple[str, str], list[tuple[int, Transition]]]:
        """The transitions of each (state, event), with their indices and in their order."""
        pairs: dict[tuple[str, str], list[tuple[int, Transition]]] = {}
        for index, transition in enumerate(self.spec.transitions):
            for source in dict.fromkeys(transition.sources):
                pairs.setdefault((source, transition.event), []).append((index, transition))
        return pairs

    @cached_property
    def has_only_known_states(self) -> bool:
        """Whether all transitions name declared states. If not, no rule can say which states are reachable."""
        names = {name for transition in self.spec.transitions for name in (*transition.sources, transition.to)}
        return names <= self.spec.states.keys()

    @cached_property
    def answering(self) -> list[tuple[str, State]]:
        """The states whose answers to events can be checked.

        A misspelt name has a finding of its own. The correct name then lacks an answer as a consequence, and a finding
        for that would hide the cause.
        """
        sources = {source for transition in self.spec.transitions for source in transition.sources}
        if not sources <= self.spec.states.keys():
            return []
        return [(name, state) for name, state in self.work if not self._has_unknown_event(name, state)]

    @cached_property
    def posted_events(self) -> list[str]:
        """The declared events that the actor posts. Each other declared event has a finding of its own."""
        posted = self.spec.events if self.vocabulary is None else self.vocabulary.events
        return [event for event in self.spec.events if event in posted]

    def known_events(self, state: State) -> set[str]:
        """The events that this state may take.

        Those that the actor posts are included, because an undeclared one has a finding of its own.
        """
        posted = self.vocabulary.events if self.vocabulary is not None else frozenset()
        return {*self.spec.events, *state.own_events, *posted}

    def _has_unknown_event(self, name: str, state: State) -> bool:
        taken = {event for source, event in self.by_pair if source == name}
        return not {*taken, *state.ignore} <= self.known_events(state)

    @cached_property
    def steps(self) -> list[tuple[str, str]]:
        """From which state to which state a transition leads, whatever its guard."""
        known = self.spec.states
        return [
            (source, transition.to)
            for transition in self.spec.transitions
            for source in transition.sources
            if source in known and transition.to in known
        ]


class Rule(NamedTuple):
    find: Callable[[Case], Iterator[Problem]]
    needs_whole: frozenset[str]
    """The parts of the spec without all of which the rule cannot judge."""


def rule(*needs_whole: str) -> Callable[[Callable[[Case], Iterator[Problem]]], Rule]:
    return lambda find: Rule(find, frozenset(needs_whole))
