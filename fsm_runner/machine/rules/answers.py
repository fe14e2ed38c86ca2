"""Rules about the answers of a state: exactly one to each event, always."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted


@rule("states", "groups", "events", "transitions")
def declared_event_is_answered(context: RuleContext) -> Iterator[Problem]:
    # An event that the actor never posts has a finding of its own.
    posted = context.interface.events if context.has_interface else context.spec.events
    events = [event for event in context.spec.events if event in posted]
    for name, state in context.checkable_states.items():
        for event in events:
            if (name, event) not in context.handled and event not in (*state.ignore, *state.reject):
                message = f"has no answer to {quoted(event)}: it needs a transition or a place in `ignore` or `reject`"
                yield Problem(("states", name), message)


@rule()
def event_has_one_answer(context: RuleContext) -> Iterator[Problem]:
    for (part, name, key, _), event in context.listed_events:
        if (name, event) in context.transitions_of:
            yield Problem((part, name, key), f"{quoted(event)} is here, and has a transition")
    for part, name, it in context.states_and_groups:
        for event in set(it.ignore).intersection(it.reject):
            yield Problem((part, name, "ignore"), f"{quoted(event)} is here, and in `reject`")


@rule("states", "groups", "events", "transitions")
def answer_of_a_group_is_used(context: RuleContext) -> Iterator[Problem]:
    if not context.has_only_known_sources:
        return
    answers: list[tuple[str, str, Path]] = [
        (place[1], event, place) for place, event in context.listed_events if place[0] == "groups"
    ]
    for (source, event), transitions in context.transitions_of.items():
        if source in context.spec.groups:
            answers += ((source, event, ("transitions", index)) for index, _ in transitions)
    for group, event, place in answers:
        states = context.states_of(group)
        applies = any(context.hierarchy.answering(state, event) == group for state in states)
        if event in context.known_events(group) and not applies and group not in context.groups_of_final_states:
            which = "" if context.final_states.keys().isdisjoint(states) else " that is not final"
            answer = f"has an answer of its own to {quoted(event)}"
            yield Problem(place, f"never applies: each member of {quoted(group)}{which} {answer}")


@rule("groups", "transitions")
def own_event_is_taken(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.checkable_states.items():
        for key in ("on_done", "on_error", "on_timeout"):
            if (event := getattr(state, key)) is not None and (name, event) not in context.handled:
                yield Problem(("states", name, key), f"{quoted(event)} has no transition")


@rule("groups", "transitions")
def guarded_choice_is_complete(context: RuleContext) -> Iterator[Problem]:
    """The guards are evaluated in the order of the file, so a transition without one must be the only one, and last."""
    for (source, event), transitions in context.transitions_of.items():
        if context.checkable_states.keys().isdisjoint(context.states_of(source)):
            continue
        case = f"{quoted(event)} in {quoted(source)}"
        guards: list[str | None] = []
        for index, transition in transitions:
            if None in guards:
                message = f"is never taken: an earlier transition for {case} has no guard"
                yield Problem(("transitions", index), message)
            elif transition.guard in guards:
                message = f"is never taken: an earlier transition for {case} has this guard"
                yield Problem(("transitions", index, "guard"), message)
            guards.append(transition.guard)
        if None not in guards:
            message = f"{case} is undecided if no guard holds: the last transition must have no guard"
            yield Problem(("transitions", transitions[-1][0], "guard"), message)
