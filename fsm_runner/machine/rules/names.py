"""Rules about names: their form, and that they refer to something."""

import unicodedata
from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem, similar
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted

_RESERVED = frozenset({"*", "="})
"""The state machine library uses these for "any state" and "the same state"."""

_NOT_ON_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, surrogates and line separators."""


@rule()
def name_is_one_line(context: RuleContext) -> Iterator[Problem]:
    for path, name in _names(context):
        if any(unicodedata.category(character) in _NOT_ON_A_LINE for character in name):
            yield Problem(path, f"the name {quoted(name)} contains control characters or line breaks")
        elif name != name.strip() or not name:
            yield Problem(path, f"the name {quoted(name)} is blank, or begins or ends with a space")


@rule()
def state_name_is_free(context: RuleContext) -> Iterator[Problem]:
    for part, name, _ in context.states_and_groups:
        if name in _RESERVED:
            yield Problem((part, name), f"{quoted(name)} is reserved and cannot be the name of a state or group")


@rule("states", "groups")
def groups_form_a_tree(context: RuleContext) -> Iterator[Problem]:
    yield from context.group_problems


@rule("states", "groups")
def group_has_a_state_that_is_not_final(context: RuleContext) -> Iterator[Problem]:
    if not context.group_problems:
        for name in context.groups_of_final_states:
            yield Problem(
                ("groups", name), "has only final members, which inherit no answers: give them its tags and remove it"
            )


@rule("states")
def initial_is_a_state(context: RuleContext) -> Iterator[Problem]:
    yield from context.state_problems(context.spec.initial, ("initial",), "a machine starts in a state")


@rule("groups")
def transition_joins_states(context: RuleContext) -> Iterator[Problem]:
    if not context.spec.states:
        return
    for index, transition in enumerate(context.spec.transitions):
        for source in transition.sources:
            yield from context.state_problems(source, ("transitions", index, "from"))
        yield from context.state_problems(transition.to, ("transitions", index, "to"), "a transition leads to a state")


@rule()
def transition_has_each_source_once(context: RuleContext) -> Iterator[Problem]:
    for index, transition in enumerate(context.spec.transitions):
        place: Path = ("transitions", index, "from")
        if not transition.sources:
            yield Problem(place, "is empty: a transition needs a source")
        yield from _are_different(transition.sources, place)


@rule("events")
def transition_event_is_known(context: RuleContext) -> Iterator[Problem]:
    for index, transition in enumerate(context.spec.transitions):
        for source in transition.sources:
            names, known = context.states_of(source), context.known_events(source)
            if names and context.damaged_states.isdisjoint(names) and transition.event not in known:
                yield Problem(("transitions", index, "event"), _unknown_event(transition.event, source, known))


@rule("events")
def ignored_event_is_known(context: RuleContext) -> Iterator[Problem]:
    for place, event in context.listed_events:
        part, name, *_ = place
        own_events = context.spec.states[name].own_events if part == "states" else ()
        if event in own_events:
            yield Problem(place, f"this state itself causes {quoted(event)}, which needs a transition")
        elif event not in context.declared_events:
            yield Problem(place, _unknown_event(event, name, {*context.declared_events, *own_events}))
    for part, name, it in context.states_and_groups:
        yield from _are_different(it.ignore, (part, name, "ignore"))
        yield from _are_different(it.reject, (part, name, "reject"))


@rule("tags")
def tag_is_declared(context: RuleContext) -> Iterator[Problem]:
    for part, name, it in context.states_and_groups:
        for index, tag in enumerate(it.tags):
            if tag not in context.declared_tags:
                message = f"{quoted(tag)} is not in [tags]{similar(tag, context.declared_tags)}"
                yield Problem((part, name, "tags", index), message)
        yield from _are_different(it.tags, (part, name, "tags"))


@rule("tags", "states", "groups")
def declared_tag_is_used(context: RuleContext) -> Iterator[Problem]:
    used = {tag for state in context.flat.states.values() for tag in state.tags}
    if used <= context.declared_tags:
        for tag in context.spec.tags.keys() - used:
            yield Problem(("tags", tag), "no state has this tag")


@rule("states")
def decided_outcome_exists(context: RuleContext) -> Iterator[Problem]:
    outcomes = {state.outcome for state in context.final_states.values() if state.outcome is not None}
    for index, transition in enumerate(context.spec.transitions):
        if transition.decides is not None and transition.decides not in outcomes:
            message = f"{quoted(transition.decides)} is the outcome of no final state"
            yield Problem(("transitions", index, "decides"), message + similar(transition.decides, outcomes))


def _unknown_event(event: str, source: str, known: set[str]) -> str:
    return f"{quoted(event)} is not in [events], and {quoted(source)} does not cause it{similar(event, known)}"


def _are_different(names: tuple[str, ...], place: Path) -> Iterator[Problem]:
    for name in {name for name in names if names.count(name) > 1}:
        yield Problem(place, f"names {quoted(name)} more than once")


def _names(context: RuleContext) -> Iterator[tuple[Path, str]]:
    spec = context.spec
    yield ("name",), spec.name
    for part, names in (("events", spec.events), ("tags", spec.tags), ("states", spec.states), ("groups", spec.groups)):
        yield from (((part, name), name) for name in names)
    for name, state in spec.states.items():
        for key in ("invoke", "timeout_s", "on_done", "on_error", "on_timeout", "outcome"):
            if isinstance(value := getattr(state, key), str):
                yield ("states", name, key), value
    for index, transition in enumerate(spec.transitions):
        if transition.guard is not None:
            yield ("transitions", index, "guard"), transition.guard
