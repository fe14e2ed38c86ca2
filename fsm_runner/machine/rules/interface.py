"""Rules that compare a spec with the interface of its actor. Without an interface they find nothing."""

from collections.abc import Collection, Iterator

from fsm_runner.machine.decoder import Problem, closest, similar
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.case import Case, rule
from fsm_runner.util.text import quoted


@rule()
def activity_is_known(case: Case) -> Iterator[Problem]:
    if case.interface is not None:
        for name, state in case.spec.states.items():
            if state.invoke is not None:
                yield from _known(state.invoke, case.interface.activities, ("states", name, "invoke"), "activity")


@rule()
def setting_is_known(case: Case) -> Iterator[Problem]:
    if case.interface is not None:
        for name, state in case.spec.states.items():
            if isinstance(state.timeout_s, str):
                yield from _known(state.timeout_s, case.interface.settings, ("states", name, "timeout_s"), "setting")


@rule()
def guard_is_known(case: Case) -> Iterator[Problem]:
    if case.interface is not None:
        for index, transition in enumerate(case.spec.transitions):
            if transition.guard is not None:
                yield from _known(transition.guard, case.interface.guards, ("transitions", index, "guard"), "guard")


@rule("events")
def events_are_those_of_the_actor(case: Case) -> Iterator[Problem]:
    if case.interface is not None:
        posted = case.interface.events
        for event in case.spec.events.keys() - posted:
            message = f"the actor of this machine never posts {quoted(event)}{similar(event, posted)}"
            yield Problem(("events", event), message)
        for event in _missing(case.spec.events, posted):
            yield Problem(("events",), f"the actor of this machine posts {quoted(event)}, which is not declared")


@rule("tags")
def tags_are_those_of_the_actor(case: Case) -> Iterator[Problem]:
    if case.interface is not None:
        read = case.interface.tags
        for tag in case.spec.tags.keys() - read:
            message = f"the actor of this machine never looks for {quoted(tag)}{similar(tag, read)}"
            yield Problem(("tags", tag), message)
        for tag in _missing(case.spec.tags, read):
            yield Problem(("tags",), f"the actor of this machine looks for {quoted(tag)}, which is not declared")


@rule("states")
def outcomes_are_those_of_the_actor(case: Case) -> Iterator[Problem]:
    if case.interface is not None:
        known = case.interface.outcomes
        outcomes = {name: state.outcome for name, state in case.final if state.outcome is not None}
        for name, outcome in outcomes.items():
            yield from _known(outcome, known, ("states", name, "outcome"), "outcome")
        for outcome in _missing(outcomes.values(), known):
            message = f"the actor of this machine needs a final state with the outcome {quoted(outcome)}"
            yield Problem(("states",), message)


RULES = (
    activity_is_known,
    setting_is_known,
    guard_is_known,
    events_are_those_of_the_actor,
    tags_are_those_of_the_actor,
    outcomes_are_those_of_the_actor,
)


def _missing(declared: Collection[str], needed: Collection[str]) -> list[str]:
    """The needed names that are not declared, without those that are probably declared with a misspelling."""
    misspelt = {closest(name, needed) for name in declared if name not in needed}
    return sorted(set(needed).difference(declared, misspelt))


def _known(name: str, known: Collection[str], place: Path, kind: str) -> Iterator[Problem]:
    if name not in known:
        hint = similar(name, known) or (f"; there are {', '.join(sorted(known))}" if known else "; there is none")
        yield Problem(place, f"{quoted(name)} is no {kind} of this machine's actor{hint}")
