"""The nested form of a machine that SCXML and XState share.

Both run a group's transition only if the member has no transition for the event, so an event that a member ignores and
its group answers needs an entry of its own. In both, a machine ends in a final state of the outermost level.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fsm_runner.machine.groups import Hierarchy, flatten
from fsm_runner.machine.render.diagram import outside_in
from fsm_runner.machine.render.text import identifiers
from fsm_runner.machine.spec import Group, Spec, State, Transition


class Part(NamedTuple):
    """A state or a group."""

    id: str
    name: str
    value: State | Group
    members: "tuple[Part, ...]"
    answers: dict[str, list[Transition]]
    """For each event the transitions, in their order; none for an event that is ignored despite the group."""


class Statechart(NamedTuple):
    parts: tuple[Part, ...]
    ids: dict[str, str]
    """For each state and group, a name that is an identifier in both formats."""


def statechart(spec: Spec) -> Statechart:
    """Return the parts of a sound machine, with the groups around them."""
    return _Building(spec).chart()


class _Building:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._flat = flatten(spec)
        self._hierarchy = Hierarchy(spec)
        self._ids = identifiers(outside_in(spec))

    def chart(self) -> Statechart:
        return Statechart(tuple(self._parts(None)), self._ids)

    def _parts(self, home: str | None) -> Iterator[Part]:
        for name, id_ in self._ids.items():
            group, state = self._spec.groups.get(name), self._spec.states.get(name)
            if state is not None and home == (None if state.final else self._hierarchy.parents.get(name)):
                yield Part(id_, name, state, (), self._answers_of_state(name, state))
            elif group is not None and home == self._hierarchy.parents.get(name):
                yield Part(id_, name, group, tuple(self._parts(name)), self._answers_of_group(name))

    def _answers_of_state(self, name: str, state: State) -> dict[str, list[Transition]]:
        """Return the answers of the state, and those of its groups to the events that it causes."""
        found: dict[str, list[Transition]] = {event: [] for event in (*state.ignore, *state.reject)}
        for way, flat in zip(self._spec.transitions, self._flat.transitions, strict=True):
            if name in way.sources or (name in flat.sources and way.event in state.own_events):
                found.setdefault(way.event, []).append(way)
        answered = {event for group in self._hierarchy.ancestors(name) for event in self._answers_of_group(group)}
        return {event: ways for event, ways in found.items() if ways or event in answered}

    def _answers_of_group(self, name: str) -> dict[str, list[Transition]]:
        group = self._spec.groups[name]
        found: dict[str, list[Transition]] = {event: [] for event in (*group.ignore, *group.reject)}
        for way in self._spec.transitions:
            if name in way.sources and way.event in self._spec.events:
                found.setdefault(way.event, []).append(way)
        return found
