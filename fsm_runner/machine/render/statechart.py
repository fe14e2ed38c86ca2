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
    hierarchy = Hierarchy(spec)
    flat_transitions = flatten(spec).transitions
    ids = identifiers(outside_in(spec))
    answers_of_groups = {name: _answers_of_group(spec, name) for name in spec.groups}

    def answers_of_state(name: str, state: State) -> dict[str, list[Transition]]:
        """Return the answers of the state, and those of its groups to the events that it causes."""
        found: dict[str, list[Transition]] = {event: [] for event in (*state.ignore, *state.reject)}
        for transition, flat in zip(spec.transitions, flat_transitions, strict=True):
            if name in transition.sources or (name in flat.sources and transition.event in state.own_events):
                found.setdefault(transition.event, []).append(transition)
        answered = {event for group in hierarchy.ancestors(name) for event in answers_of_groups[group]}
        return {event: transitions for event, transitions in found.items() if transitions or event in answered}

    def parts(home: str | None) -> Iterator[Part]:
        for name, id_ in ids.items():
            group, state = spec.groups.get(name), spec.states.get(name)
            if state is not None and home == (None if state.final else hierarchy.parents.get(name)):
                yield Part(id_, name, state, (), answers_of_state(name, state))
            elif group is not None and home == hierarchy.parents.get(name):
                yield Part(id_, name, group, tuple(parts(name)), answers_of_groups[name])

    return Statechart(tuple(parts(None)), ids)


def _answers_of_group(spec: Spec, name: str) -> dict[str, list[Transition]]:
    group = spec.groups[name]
    found: dict[str, list[Transition]] = {event: [] for event in (*group.ignore, *group.reject)}
    for transition in spec.transitions:
        if name in transition.sources and transition.event in spec.events:
            found.setdefault(transition.event, []).append(transition)
    return found
