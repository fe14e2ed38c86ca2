"""Rules about names: what they may look like, and that they name something."""

import unicodedata
from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem, similar
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.case import Case, rule
from fsm_runner.machine.spec import State
from fsm_runner.util.text import quoted

RESERVED_STATES = frozenset({"*", "="})
"""The machinery takes these for "any state" and "the same state"."""

_NOT_ON_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, half characters and line separators."""


@rule()
def name_is_one_line(case: Case) -> Iterator[Problem]:
    for path, name in _names(case):
        if any(unicodedata.category(character) in _NOT_ON_A_LINE for character in name):
            yield Problem(path, f"the name {quoted(name)} has control characters or line breaks in it")
        elif name != name.strip() or not name:
            yield Problem(path, f"the name {quoted(name)} is blank, or begins or ends with a space")


@rule()
def state_name_is_free(case: Case) -> Iterator[Problem]:
    for name in case.spec.states:
        if name in RESERVED_STATES:
            yield Problem(("states", name), f"{quoted(name)} is reserved and cannot name a state")


@rule("states", "groups")
def groups_form_a_tree(case: Case) -> Iterator[Problem]:
    spec = case.spec
    parents = case.hierarchy.parents
    for name, group in spec.groups.items():
        place: Path = ("groups", name)
        if name in spec.states or name in RESERVED_STATES:
            yield Problem(place, f"{quoted(name)} is {'the name of a state' if name in spec.states else 'reserved'}")
        if not group.states:
            yield Problem(place, "has no members: `states` must name a state or a group")
        if name in case.hierarchy.ancestors(name):
            yield Problem((*place, "states"), f"{quoted(name)} is in itself")
        for index, member in enumerate(group.states):
            if member not in spec.states and member not in spec.groups:
                message = f"{quoted(member)} is neither a state nor a group"
                yield Problem((*place, "states", index), message + similar(member, {*spec.states, *spec.groups}))
            elif member in group.states[:index] or parents[member] != name:
                message = f"{quoted(member)} is in the group {quoted(parents[member])} already"
                yield Problem((*place, "states", index), message)


@rule("states")
def initial_is_a_state(case: Case) -> Iterator[Problem]:
    yield from _is_state(case, case.spec.initial, ("initial",))


@rule("groups")
def transition_joins_states(case: Case) -> Iterator[Problem]:
    if not case.spec.states:
        return
    known = {*case.spec.states, *case.spec.groups}
    for index, transition in enumerate(case.spec.transitions):
        for source in transition.sources:
            if source not in known:
                problem = f"{quoted(source)} is neither a state nor a group" if case.spec.groups else _no_state(source)
                yield Problem(("transitions", index, "from"), problem + similar(source, known))
        yield from _is_state(case, transition.to, ("transitions", index, "to"))


@rule()
def transition_has_each_source_once(case: Case) -> Iterator[Problem]:
    for index, transition in enumerate(case.spec.transitions):
        place: Path = ("transitions", index, "from")
        if not transition.sources:
            yield Problem(place, "is empty: the transition starts nowhere")
        for source in _repeated(transition.sources):
            yield Problem(place, f"names {quoted(source)} more than once")


@rule("events")
def transition_event_is_known(case: Case) -> Iterator[Problem]:
    for index, transition in enumerate(case.spec.transitions):
        for source in transition.sources:
            names = case.states_of(source)
            if not names or not case.damaged_states.isdisjoint(names):
                continue
            known = {event for name in names for event in case.known_events(case.spec.states[name])}
            if transition.event not in known:
                yield Problem(("transitions", index, "event"), _unknown_event(transition.event, source, known))


@rule("events")
def ignored_event_is_known(case: Case) -> Iterator[Problem]:
    for part, name, answering in case.answering_parts:
        own_events = answering.own_events if isinstance(answering, State) else ()
        for key, events in (("ignore", answering.ignore), ("reject", answering.reject)):
            for index, event in enumerate(events):
                place: Path = (part, name, key, index)
                known = {*case.spec.events, *case.posted}
                if event in own_events:
                    yield Problem(place, f"{quoted(event)} is how this state itself ends: it needs a transition")
                elif event not in known:
                    yield Problem(place, _unknown_event(event, name, {*known, *own_events}))
            for event in _repeated(events):
                yield Problem((part, name, key), f"names {quoted(event)} more than once")


@rule("tags")
def tag_is_declared(case: Case) -> Iterator[Problem]:
    known = case.known_tags
    for part, name, it in case.answering_parts:
        for index, tag in enumerate(it.tags):
            if tag not in known:
                yield Problem((part, name, "tags", index), f"{quoted(tag)} is not in [tags]{similar(tag, known)}")
        for tag in _repeated(it.tags):
            yield Problem((part, name, "tags"), f"names {quoted(tag)} more than once")


@rule("tags", "states", "groups")
def declared_tag_is_used(case: Case) -> Iterator[Problem]:
    used = {tag for state in case.flat.states.values() for tag in state.tags}
    if used <= case.known_tags:
        for tag in case.spec.tags.keys() - used:
            yield Problem(("tags", tag), "no state has this tag")


@rule("states")
def decided_outcome_is_one(case: Case) -> Iterator[Problem]:
    outcomes = {state.outcome for _, state in case.final if state.outcome is not None}
    for index, transition in enumerate(case.spec.transitions):
        if transition.decides is not None and transition.decides not in outcomes:
            message = f"{quoted(transition.decides)} is the outcome of no final state"
            yield Problem(("transitions", index, "decides"), message + similar(transition.decides, outcomes))


RULES = (
    name_is_one_line,
    state_name_is_free,
    groups_form_a_tree,
    initial_is_a_state,
    transition_joins_states,
    transition_has_each_source_once,
    transition_event_is_known,
    ignored_event_is_known,
    tag_is_declared,
    declared_tag_is_used,
    decided_outcome_is_one,
)


def _is_state(case: Case, name: str, place: Path) -> Iterator[Problem]:
    if name not in case.spec.states:
        yield Problem(place, _no_state(name) + similar(name, case.spec.states))


def _no_state(name: str) -> str:
    return f"{quoted(name)} is no state"


def _unknown_event(event: str, state: str, known: set[str]) -> str:
    return f"{quoted(event)} is neither in [events] nor how the state {quoted(state)} ends{similar(event, known)}"


def _repeated(names: tuple[str, ...]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _names(case: Case) -> Iterator[tuple[Path, str]]:
    spec = case.spec
    yield ("name",), spec.name
    yield from ((("events", event), event) for event in spec.events)
    for name, state in spec.states.items():
        yield ("states", name), name
        for key in ("invoke", "timeout_s", "on_done", "on_error", "on_timeout", "outcome"):
            if isinstance(value := getattr(state, key), str):
                yield ("states", name, key), value
    yield from ((("tags", tag), tag) for tag in spec.tags)
    yield from ((("groups", group), group) for group in spec.groups)
    for index, transition in enumerate(spec.transitions):
        if transition.guard is not None:
            yield ("transitions", index, "guard"), transition.guard
