"""What a rule looks at, and what a rule is."""

from collections.abc import Callable, Iterator, Set
from functools import cached_property
from typing import NamedTuple

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.groups import Hierarchy
from fsm_runner.machine.spec import ActorInterface, Group, Spec, State, Transition


class Case:
    """A spec with the questions that several rules ask about it.

    `spec` is the spec as it is written, `flat` the same machine without groups. Both number transitions alike.
    """

    def __init__(self, spec: Spec, interface: ActorInterface | None, damaged_states: Set[str] = frozenset()) -> None:
        self.spec = spec
        self.interface = interface
        self.damaged_states = damaged_states

    @cached_property
    def hierarchy(self) -> Hierarchy:
        return Hierarchy(self.spec)

    @cached_property
    def flat(self) -> Spec:
        return self.hierarchy.flat()

    @cached_property
    def answering_parts(self) -> list[tuple[str, str, State | Group]]:
        """`states` or `groups`, name and value of everything that can answer events."""
        states = [("states", name, state) for name, state in self.spec.states.items()]
        return [*states, *(("groups", name, group) for name, group in self.spec.groups.items())]

    def states_of(self, source: str) -> tuple[str, ...]:
        """The states that a transition's source contains; none if there is no such state or group."""
        return (source,) if source in self.spec.states else self.hierarchy.members.get(source, ())

    @cached_property
    def groups_are_sound(self) -> bool:
        """Whether groups and states form a tree. If not, no rule can say what a state inherits."""
        spec = self.spec
        members = [member for group in spec.groups.values() for member in group.states]
        return (
            spec.groups.keys().isdisjoint(spec.states)
            and all(group.states for group in spec.groups.values())
            and len(set(members)) == len(members)
            and all(member in spec.states or member in spec.groups for member in members)
            and all(name not in self.hierarchy.ancestors(name) for name in spec.groups)
        )

    @cached_property
    def work(self) -> list[tuple[str, State]]:
        """The states that something can still happen in."""
        return [(name, state) for name, state in self.spec.states.items() if not state.final]

    @cached_property
    def final(self) -> list[tuple[str, State]]:
        return [(name, state) for name, state in self.spec.states.items() if state.final]

    @cached_property
    def by_pair(self) -> dict[tuple[str, str], list[tuple[int, Transition]]]:
        """The transitions of each (state or group, event), with their indices and in their order."""
        pairs: dict[tuple[str, str], list[tuple[int, Transition]]] = {}
        for index, transition in enumerate(self.spec.transitions):
            for source in dict.fromkeys(transition.sources):
                pairs.setdefault((source, transition.event), []).append((index, transition))
        return pairs

    @cached_property
    def taken(self) -> set[tuple[str, str]]:
        """Each (state, event) for which the state has a transition, its own or a group's."""
        return {(source, way.event) for way in self.flat.transitions for source in way.sources}

    @cached_property
    def has_only_known_sources(self) -> bool:
        """Whether all transitions start from declared states or groups, and the groups are sound."""
        sources = {source for transition in self.spec.transitions for source in transition.sources}
        return self.groups_are_sound and sources <= {*self.spec.states, *self.spec.groups}

    @cached_property
    def has_only_known_states(self) -> bool:
        """Whether all transitions join declared states. If not, no rule can say which states are reachable."""
        targets = {transition.to for transition in self.spec.transitions}
        return self.has_only_known_sources and targets <= self.spec.states.keys()

    @cached_property
    def answering(self) -> list[tuple[str, State]]:
        """The states whose answers to events can be checked.

        A misspelt name has a finding of its own. The correct name then lacks an answer as a consequence, and a finding
        for that would hide the cause.
        """
        if not self.has_only_known_sources:
            return []
        states = self.flat.states.items()
        return [(name, state) for name, state in states if not state.final and not self._has_unknown_event(name, state)]

    @cached_property
    def posted_events(self) -> list[str]:
        """The declared events that the actor posts. Each other declared event has a finding of its own."""
        return [event for event in self.spec.events if self.interface is None or event in self.posted]

    @cached_property
    def posted(self) -> frozenset[str]:
        """The events that the actor is known to post."""
        return frozenset() if self.interface is None else self.interface.events

    @cached_property
    def known_tags(self) -> set[str]:
        """The tags that states may have. An undeclared one that the actor looks for has a finding of its own."""
        return {*self.spec.tags, *(self.interface.tags if self.interface is not None else ())}

    def known_events(self, state: State) -> set[str]:
        """The events that this state may take.

        Those that the actor posts are included, because an undeclared one has a finding of its own.
        """
        return {*self.spec.events, *state.own_events, *self.posted}

    def _has_unknown_event(self, name: str, state: State) -> bool:
        taken = {event for source, event in self.taken if source == name}
        return not {*taken, *state.ignore, *state.reject} <= self.known_events(state)

    @cached_property
    def steps(self) -> list[tuple[str, str]]:
        """From which state to which state a transition leads, whatever its guard."""
        known = self.spec.states
        return [
            (source, transition.to)
            for transition in self.flat.transitions
            for source in transition.sources
            if source in known and transition.to in known
        ]


class Rule(NamedTuple):
    find: Callable[[Case], Iterator[Problem]]
    needs_whole: frozenset[str]
    """The parts of the spec without all of which the rule cannot judge."""


def rule(*needs_whole: str) -> Callable[[Callable[[Case], Iterator[Problem]]], Rule]:
    return lambda find: Rule(find, frozenset(needs_whole))
