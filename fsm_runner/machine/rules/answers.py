"""Rules about what a state answers to an event: exactly one thing, always."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.case import Case, rule
from fsm_runner.util.text import quoted


@rule("states", "groups", "events", "transitions")
def declared_event_is_answered(case: Case) -> Iterator[Problem]:
    for name, state in case.answering:
        for event in case.posted_events:
            if (name, event) not in case.taken and event not in (*state.ignore, *state.reject):
                message = f"does not mention the event {quoted(event)}: it needs a transition or a place in `ignore`"
                yield Problem(("states", name), message)


@rule()
def event_has_one_answer(case: Case) -> Iterator[Problem]:
    for part, name, answering in case.answering_parts:
        for event in answering.ignore:
            if (name, event) in case.by_pair:
                yield Problem((part, name, "ignore"), f"{quoted(event)} is ignored here, and has a transition")
            if event in answering.reject:
                yield Problem((part, name, "ignore"), f"{quoted(event)} is ignored here, and rejected")
        for event in answering.reject:
            if (name, event) in case.by_pair:
                yield Problem((part, name, "reject"), f"{quoted(event)} is rejected here, and has a transition")


@rule("states", "groups", "events", "transitions")
def answer_of_a_group_is_used(case: Case) -> Iterator[Problem]:
    if not case.has_only_known_sources:
        return
    for name, group in case.spec.groups.items():
        known = {event for member in case.states_of(name) for event in case.known_events(case.spec.states[member])}
        places: dict[Path, str] = {
            ("groups", name, key, index): event
            for key, events in (("ignore", group.ignore), ("reject", group.reject))
            for index, event in enumerate(events)
        }
        for (source, event), ways in case.by_pair.items():
            places |= {("transitions", index): event for index, _ in ways if source == name}
        for place, event in places.items():
            takers = (member for member in case.states_of(name) if case.hierarchy.answering(member, event) == name)
            if event in known and next(takers, None) is None:
                message = f"never applies: each member of {quoted(name)} has its own answer to {quoted(event)}"
                yield Problem(place, message)


@rule()
def provisional_outcome_is_decided(case: Case) -> Iterator[Problem]:
    for index, transition in enumerate(case.spec.transitions):
        if transition.provisional and transition.decides is None:
            yield Problem(("transitions", index, "provisional"), "has no meaning without `decides`")


@rule("groups", "transitions")
def own_event_is_taken(case: Case) -> Iterator[Problem]:
    for name, state in case.answering:
        for key in ("on_done", "on_error", "on_timeout"):
            event = getattr(state, key)
            if event is not None and (name, event) not in case.taken:
                yield Problem(("states", name, key), f"{quoted(event)} leads nowhere: no transition takes it")


@rule("groups", "transitions")
def guarded_choice_is_complete(case: Case) -> Iterator[Problem]:
    """Guards are asked in the order of the file, so the transition without one is the last and the only one."""
    answering = {name for name, _ in case.answering}
    for (source, event), ways in case.by_pair.items():
        if answering.isdisjoint(case.states_of(source)):
            continue
        pair = f"{quoted(event)} in {quoted(source)}"
        seen: set[str] = set()
        is_settled = False
        for index, transition in ways:
            place: Path = ("transitions", index)
            if is_settled:
                yield Problem(place, f"is never taken: {pair} is taken before by a transition without a guard")
            elif transition.guard is None:
                is_settled = True
            elif transition.guard in seen:
                yield Problem((*place, "guard"), f"is never taken: {pair} has this guard before")
            else:
                seen.add(transition.guard)
        if not is_settled:
            message = f"{pair} is undecided when no guard holds: a transition without a guard must come last"
            yield Problem(("transitions", ways[-1][0], "guard"), message)


RULES = (
    declared_event_is_answered,
    event_has_one_answer,
    answer_of_a_group_is_used,
    provisional_outcome_is_decided,
    own_event_is_taken,
    guarded_choice_is_complete,
)
