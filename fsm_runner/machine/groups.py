"""Expands groups: a group's answers and tags become those of its members."""

from collections.abc import Iterator

import msgspec

from fsm_runner.machine.spec import Group, Spec, State, Transition


def flatten(spec: Spec) -> Spec:
    """Return the same machine without groups.

    For one event, the answer of a state (its transitions, `ignore` or `reject`) wins over that of its group, and that
    of a group over that of the group around it. A final state takes no answers from its groups, and a state takes no
    answer to an event that only other states cause. The transitions keep their order and number; one that a group
    has and no member takes has no source.
    """
    return _Flattening(spec).spec() if spec.groups else spec


def parents(spec: Spec) -> dict[str, str]:
    """Return the group that directly contains each state or group; of several, the first in the file."""
    found: dict[str, str] = {}
    for name, group in spec.groups.items():
        for member in group.states:
            found.setdefault(member, name)
    return found


def ancestors(spec: Spec, name: str) -> tuple[str, ...]:
    """Return the groups that contain a state or group, from the inside out; a cycle is followed once."""
    outward, found = parents(spec), dict[str, None]()
    while (group := outward.get(name)) is not None and group not in found:
        found[group] = None
        name = group
    return tuple(found)


class _Flattening:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._ancestors = {name: ancestors(spec, name) for name in spec.states}
        self._caused = {event for state in spec.states.values() for event in state.own_events}
        self._answered = {(source, way.event) for way in spec.transitions for source in way.sources}
        answering: dict[str, State | Group] = {**spec.groups, **spec.states}
        for name, part in answering.items():
            self._answered.update((name, event) for event in (*part.ignore, *part.reject))

    def spec(self) -> Spec:
        return msgspec.structs.replace(
            self._spec,
            states={name: self._state(name, state) for name, state in self._spec.states.items()},
            groups={},
            transitions=tuple(self._transition(way) for way in self._spec.transitions),
        )

    def _answering(self, name: str, event: str) -> str | None:
        """The state, or the innermost of its groups, that answers the event for this state."""
        state = self._spec.states[name]
        takes_over = not state.final and (event in state.own_events or event not in self._caused)
        levels = (name, *self._ancestors[name]) if takes_over else (name,)
        return next((level for level in levels if (level, event) in self._answered), None)

    def _state(self, name: str, state: State) -> State:
        groups = [(level, self._spec.groups[level]) for level in self._ancestors[name]]
        inherited = [
            (level, kind, event) for level, group in groups for kind in _KINDS for event in getattr(group, kind)
        ]
        added = {
            kind: tuple(event for level, of, event in inherited if of == kind and self._answering(name, event) == level)
            for kind in _KINDS
        }
        tags = dict.fromkeys((*state.tags, *(tag for _, group in groups for tag in group.tags)))
        return msgspec.structs.replace(
            state, ignore=state.ignore + added["ignore"], reject=state.reject + added["reject"], tags=tuple(tags)
        )

    def _transition(self, way: Transition) -> Transition:
        sources = dict.fromkeys(state for source in way.sources for state in self._sources(source, way.event))
        return msgspec.structs.replace(way, source=tuple(sources))

    def _sources(self, source: str, event: str) -> Iterator[str]:
        if source not in self._spec.groups:
            yield source
            return
        for name, around in self._ancestors.items():
            if source in around and self._answering(name, event) == source:
                yield name


_KINDS = ("ignore", "reject")
