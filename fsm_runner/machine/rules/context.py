"""The questions that several rules ask about a spec, and the list of rules."""

from collections.abc import Callable, Iterator, Set
from functools import cached_property
from typing import NamedTuple

from fsm_runner.machine.decoder import Problem, similar
from fsm_runner.machine.defects import Path
from fsm_runner.machine.groups import Hierarchy
from fsm_runner.machine.spec import ActorInterface, Group, Spec, State, Transition
from fsm_runner.util.text import quoted


class RuleContext:
    """A spec under examination.

    `spec` is the spec as it is written, `flat` the same machine without groups. Both number transitions alike.
    `damaged_states` could not be decoded completely.
    """

    def __init__(self, spec: Spec, interface: ActorInterface | None, damaged_states: Set[str] = frozenset()) -> None:
        self.spec = spec
        self.interface = interface or ActorInterface()
        self.has_interface = interface is not None
        self.damaged_states = damaged_states
        self.hierarchy = Hierarchy(spec)
        self.flat = self.hierarchy.flat()
        self.final_states = {name: state for name, state in spec.states.items() if state.final}
        # An undeclared event or tag that the actor needs is included: it has a finding of its own.
        self.declared_events = {*spec.events, *self.interface.events}
        self.declared_tags = {*spec.tags, *self.interface.tags}
        flat = [(source, transition) for transition in self.flat.transitions for source in transition.sources]
        self.handled = {(source, transition.event) for source, transition in flat}
        """Each (state, event) for which the state has a transition, its own or a group's."""
        self.edges = [(source, transition.to) for source, transition in flat]
        """Source and target of each flat transition, whatever its guard."""
        self.states_and_groups: list[tuple[str, str, State | Group]] = [
            *(("states", name, state) for name, state in spec.states.items()),
            *(("groups", name, group) for name, group in spec.groups.items()),
        ]
        self.listed_events = [
            ((part, name, key, index), event)
            for part, name, it in self.states_and_groups
            for key, events in (("ignore", it.ignore), ("reject", it.reject))
            for index, event in enumerate(events)
        ]
        """The place of each entry of `ignore` or `reject`, and the event."""
        self.transitions_of: dict[tuple[str, str], list[tuple[int, Transition]]] = {}
        """The transitions of each (state or group, event) with their indices, in their order."""
        for index, transition in enumerate(spec.transitions):
            for source in dict.fromkeys(transition.sources):
                self.transitions_of.setdefault((source, transition.event), []).append((index, transition))
        self.group_problems = list(self._group_problems())
        """The reasons why groups and states do not form a tree. With any, no rule can say what a state inherits."""

    def states_of(self, source: str) -> tuple[str, ...]:
        """Return the states that a transition's source contains; none if there is no such state or group."""
        return (source,) if source in self.spec.states else self.hierarchy.members.get(source, ())

    def known_events(self, source: str) -> set[str]:
        """Return the events that can arrive in a state, or in any state of a group."""
        states = [self.spec.states[name] for name in self.states_of(source)]
        return {event for state in states for event in (*self.declared_events, *state.own_events)}

    def state_problems(self, name: str, place: Path, why_no_group: str | None = None) -> Iterator[Problem]:
        """Yield a problem if the name is not that of a state. It may be that of a group unless there is a reason."""
        known = {*self.spec.states, *(self.spec.groups if why_no_group is None else ())}
        if name in self.spec.groups and name not in known:
            yield Problem(place, f"{quoted(name)} is a group; {why_no_group}")
        elif name not in known:
            kind = "neither a state nor a group" if why_no_group is None else "not a state"
            yield Problem(place, f"{quoted(name)} is {kind}{similar(name, known)}")

    def _group_problems(self) -> Iterator[Problem]:
        spec, parents = self.spec, self.hierarchy.parents
        for name, group in spec.groups.items():
            place: Path = ("groups", name)
            if name in spec.states:
                yield Problem(place, f"{quoted(name)} is the name of a state")
            if not group.states:
                yield Problem(place, "has no members: `states` must name a state or a group")
            if name in self.hierarchy.ancestors(name):
                yield Problem((*place, "states"), f"{quoted(name)} contains itself")
            for index, member in enumerate(group.states):
                yield from self.state_problems(member, (*place, "states", index))
                if member in group.states[:index] or parents[member] != name:
                    message = f"{quoted(member)} is in the group {quoted(parents[member])} already"
                    yield Problem((*place, "states", index), message)

    @cached_property
    def groups_of_final_states(self) -> list[str]:
        """The groups with members that are all final. Such a group has a finding of its own."""
        members = self.hierarchy.members
        return [name for name, states in members.items() if states and self.final_states.keys() >= set(states)]

    @cached_property
    def has_only_known_sources(self) -> bool:
        """Whether all transitions start from declared states or groups, and the groups are sound."""
        names = {*self.spec.states, *self.spec.groups}
        return not self.group_problems and all(source in names for source, _ in self.transitions_of)

    @cached_property
    def has_only_known_states(self) -> bool:
        """Whether all transitions join declared states. If not, no rule can say which states are reachable."""
        return self.has_only_known_sources and all(it.to in self.spec.states for it in self.spec.transitions)

    @cached_property
    def checkable_states(self) -> dict[str, State]:
        """The flat states whose answers to events can be checked.

        After a misspelling the correct name lacks an answer. A finding for that would hide the cause, which has a
        finding of its own.
        """
        if not self.has_only_known_sources:
            return {}
        return {
            name: state
            for name, state in self.flat.states.items()
            if not state.final
            and {*state.ignore, *state.reject, *(event for source, event in self.handled if source == name)}
            <= self.known_events(name)
        }


class Rule(NamedTuple):
    find: Callable[[RuleContext], Iterator[Problem]]
    needs_whole: frozenset[str]


RULES: list[Rule] = []


def rule(*needs_whole: str) -> Callable[[Callable[[RuleContext], Iterator[Problem]]], None]:
    """Register a rule. `needs_whole`: the parts of the spec that must have been decoded completely."""
    return lambda find: RULES.append(Rule(find, frozenset(needs_whole)))
