"""Puts the machine of a workflow into that of a run, for drawings (docs/machines.md)."""

from collections.abc import Iterable, Iterator

import msgspec

from fsm_runner.machine.groups import flatten
from fsm_runner.machine.spec import Group, Spec, State, Transition
from fsm_runner.workflow.expansion import ANY_ACTIVITY

WORK, WAIT = "execute", "await_workflow"
"""The activities of the run's states in which a workflow works, and waits without a slot."""
WAITS = frozenset({"agent", "approval", "wait"})
_GROUPS = {WORK: ANY_ACTIVITY, WAIT: "any wait"}


def nested(run: Spec, workflow: Spec) -> Spec:
    """Return the run's machine with the states of a workflow in place of those in which a workflow works or waits.

    These become groups. A final state of the workflow causes the events of the state in which it works. A transition to
    that state leads to the workflow's initial one. Names of the run that the workflow has too get a suffix there.
    """
    return _Nesting(run, workflow).spec()


class _Nesting:
    def __init__(self, run: Spec, workflow: Spec) -> None:
        self.run = run
        self.inner = _renamed(workflow, taken={*run.states, *run.groups, *run.events})
        self.hosts = {state.invoke: name for name, state in run.states.items() if state.invoke in (WORK, WAIT)}
        """The names of the run's states by their activities."""
        self.members: dict[str, list[str]] = {activity: [] for activity in self.hosts}
        for name, state in self.inner.states.items():
            self.members[WAIT if state.invoke in WAITS and WAIT in self.hosts else WORK].append(name)
        self.unused = {self.hosts[activity] for activity, members in self.members.items() if not members}

    def spec(self) -> Spec:
        run, names = self.run, self.hosts.values()
        outside = {name: self._outside(state) for name, state in run.states.items() if name not in names}
        inside = {name: self._inside(state) for name, state in self.inner.states.items()}
        finals = {name: state for name, state in outside.items() if state.final}
        return Spec(
            name=run.name,
            initial=run.initial,
            doc=run.doc,
            events={**run.events, **self.inner.events},
            tags=run.tags,
            states={**{name: state for name, state in outside.items() if not state.final}, **inside, **finals},
            groups={**{name: self._group(group) for name, group in run.groups.items()}, **self._host_groups()},
            transitions=(*self._run_transitions(), *self._inner_transitions()),
        )

    def _outside(self, state: State) -> State:
        ignore = () if state.final else (*state.ignore, *self.inner.events)
        return msgspec.structs.replace(state, ignore=ignore)

    def _inside(self, state: State) -> State:
        if not state.final:
            return state
        host = self.run.states[self.hosts[WORK]]
        ignore = (*host.ignore, *self.inner.events)
        return msgspec.structs.replace(host, doc=state.doc, ignore=ignore, tags=(), tone=state.tone)

    def _group(self, group: Group) -> Group:
        return msgspec.structs.replace(group, states=tuple(name for name in group.states if name not in self.unused))

    def _host_groups(self) -> dict[str, Group]:
        groups: dict[str, Group] = {}
        active = self.inner.groups.get(ANY_ACTIVITY, Group(states=()))
        for activity, name in self.hosts.items():
            host, members = self.run.states[name], self.members[activity]
            inner = [member for member in members if member in active.states]
            if inner:
                groups[_GROUPS[activity]] = msgspec.structs.replace(active, states=tuple(inner))
            states = (*([_GROUPS[activity]] if inner else []), *(it for it in members if it not in inner))
            if members:
                groups[name] = Group(doc=host.doc, states=states, ignore=host.ignore, tags=host.tags)
        return groups

    def _run_transitions(self) -> Iterator[Transition]:
        hosts = self.hosts.values()
        waits = {self.hosts[WAIT]} if WAIT in self.hosts else set()
        of_wait = {event for name in waits for event in self.run.states[name].own_events}
        for transition in self.run.transitions:
            gone = self.unused | (waits if transition.event in of_wait else set())
            sources = tuple(name for name in transition.sources if name not in gone)
            if transition.to in hosts and not set(sources).isdisjoint(hosts):
                continue
            if transition.to in self.unused or not sources:
                continue
            target = self.inner.initial if transition.to in hosts else transition.to
            yield msgspec.structs.replace(transition, source=sources, to=target)

    def _inner_transitions(self) -> Iterator[Transition]:
        for transition, flat in zip(self.inner.transitions, flatten(self.inner).transitions, strict=True):
            sources = transition.sources
            if ANY_ACTIVITY in sources:
                sources = tuple(
                    _GROUPS[activity] for activity, members in self.members.items() if set(members) & set(flat.sources)
                )
            yield msgspec.structs.replace(transition, source=sources)


def _renamed(workflow: Spec, taken: Iterable[str]) -> Spec:
    """Return the machine of a workflow with a suffix at each name that is taken."""
    names = {name: f"{name} ({workflow.name})" for name in taken}

    def new(name: str) -> str:
        return names.get(name, name)

    def each(values: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(new, values))

    return msgspec.structs.replace(
        workflow,
        initial=new(workflow.initial),
        events={new(event): doc for event, doc in workflow.events.items()},
        states={
            new(name): msgspec.structs.replace(state, ignore=each(state.ignore))
            for name, state in workflow.states.items()
        },
        groups={
            name: msgspec.structs.replace(group, states=each(group.states), ignore=each(group.ignore))
            for name, group in workflow.groups.items()
        },
        transitions=tuple(
            msgspec.structs.replace(it, source=each(it.sources), event=new(it.event), to=new(it.to))
            for it in workflow.transitions
        ),
    )
