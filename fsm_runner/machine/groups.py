"""Expands groups: a group's answers and tags become those of its members."""

from collections.abc import Iterator

import msgspec

from fsm_runner.machine.spec import Group, Spec, State, Transition


def flatten(spec: Spec) -> Spec:
    """Return the same machine without groups.

    For one event, a state's own answer (its transitions, `ignore` or `reject`) wins over that of its group, and a
    group's over that of the group around it. A final state inherits no answers. If an event is caused by some states
    themselves (`on_done` and the like), only those inherit an answer to it.

    Transitions keep their number and order. One that no member inherits is left without a source.
    """
    return Hierarchy(spec).flat() if spec.groups else spec


class Hierarchy:
    """The groups of a spec, which may be unsound: of several groups of a member the first counts, cycles end."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._caused = {event for state in spec.states.values() for event in state.own_events}
        self._answered = {(source, it.event) for it in spec.transitions for source in it.sources}
        answering: dict[str, State | Group] = {**spec.groups, **spec.states}
        for name, part in answering.items():
            self._answered.update((name, event) for event in (*part.ignore, *part.reject))
        self.parents: dict[str, str] = {}
        """The group that directly contains each state or group."""
        for name, group in spec.groups.items():
            for member in group.states:
                self.parents.setdefault(member, name)
        self._ancestors = {name: self.ancestors(name) for name in spec.states}
        self.members = {
            group: tuple(name for name, around in self._ancestors.items() if group in around) for group in spec.groups
        }
        """The states in each group, including those of the groups in it."""

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the groups that contain a state or group, innermost first."""
        found = dict[str, None]()
        while (group := self.parents.get(name)) is not None and group not in found:
            found[group] = None
            name = group
        return tuple(found)

    def answering(self, name: str, event: str) -> str | None:
        """Return the name of the state, or of the innermost of its groups, whose answer to the event applies."""
        state = self._spec.states[name]
        inherits = not state.final and (event in state.own_events or event not in self._caused)
        levels = (name, *self._ancestors[name]) if inherits else (name,)
        return next((level for level in levels if (level, event) in self._answered), None)

    def flat(self) -> Spec:
        return msgspec.structs.replace(
            self._spec,
            states={name: self._state(name, state) for name, state in self._spec.states.items()},
            groups={},
            transitions=tuple(self._transition(transition) for transition in self._spec.transitions),
        )

    def _state(self, name: str, state: State) -> State:
        groups = [self._spec.groups[group] for group in self._ancestors[name]]
        return msgspec.structs.replace(
            state,
            ignore=(*state.ignore, *self._inherited(name, "ignore")),
            reject=(*state.reject, *self._inherited(name, "reject")),
            tags=tuple(dict.fromkeys((*state.tags, *(tag for group in groups for tag in group.tags)))),
        )

    def _inherited(self, name: str, kind: str) -> Iterator[str]:
        for group in self._ancestors[name]:
            events: tuple[str, ...] = getattr(self._spec.groups[group], kind)
            yield from (event for event in events if self.answering(name, event) == group)

    def _transition(self, transition: Transition) -> Transition:
        sources = (
            name
            for source in transition.sources
            for name in self.members.get(source, (source,))
            if name == source or self.answering(name, transition.event) == source
        )
        return msgspec.structs.replace(transition, source=tuple(dict.fromkeys(sources)))
