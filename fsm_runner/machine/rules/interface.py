"""Rules that compare a spec with the interface of its actor. Without an interface they find nothing."""

from collections.abc import Collection, Iterator

from fsm_runner.machine.decoder import Problem, closest, similar
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted


@rule()
def name_is_that_of_the_actor(context: RuleContext) -> Iterator[Problem]:
    name = context.interface.name
    if name and context.spec.name != name:
        yield Problem(("name",), f"must be {quoted(name)}, like the file")


@rule()
def activity_is_known(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        yield from _known(context, "activity", context.interface.activities, state.invoke, ("states", name, "invoke"))


@rule()
def setting_is_known(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        if isinstance(state.timeout_s, str):
            yield from _known(
                context, "setting", context.interface.settings, state.timeout_s, ("states", name, "timeout_s")
            )


@rule()
def guard_is_known(context: RuleContext) -> Iterator[Problem]:
    for index, transition in enumerate(context.spec.transitions):
        yield from _known(context, "guard", context.interface.guards, transition.guard, ("transitions", index, "guard"))


@rule("events")
def events_are_those_of_the_actor(context: RuleContext) -> Iterator[Problem]:
    for name in context.spec.events:
        yield from _known(context, "event", context.interface.events, name, ("events", name))
    for name in _missing(context, context.spec.events, context.interface.events):
        yield Problem(("events",), f"the actor of this machine posts {quoted(name)}, which is not declared")


@rule("tags")
def tags_are_those_of_the_actor(context: RuleContext) -> Iterator[Problem]:
    for name in context.spec.tags:
        yield from _known(context, "tag", context.interface.tags, name, ("tags", name))
    for name in _missing(context, context.spec.tags, context.interface.tags):
        yield Problem(("tags",), f"the actor of this machine looks for {quoted(name)}, which is not declared")


@rule("states")
def outcomes_are_those_of_the_actor(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.final_states.items():
        yield from _known(context, "outcome", context.interface.outcomes, state.outcome, ("states", name, "outcome"))
    outcomes = [state.outcome for state in context.final_states.values() if state.outcome is not None]
    for outcome in _missing(context, outcomes, context.interface.outcomes):
        message = f"the actor of this machine needs a final state with the outcome {quoted(outcome)}"
        yield Problem(("states",), message)


def _known(context: RuleContext, kind: str, known: frozenset[str], name: str | None, place: Path) -> Iterator[Problem]:
    if name is not None and name not in known and context.has_interface:
        hint = similar(name, known) or f"; it has {', '.join(sorted(known)) or 'none'}"
        yield Problem(place, f"the actor of this machine has no {kind} {quoted(name)}{hint}")


def _missing(context: RuleContext, declared: Collection[str], needed: Collection[str]) -> list[str]:
    """The needed names that are not declared, without those that are probably declared with a misspelling."""
    misspelt = {closest(name, needed) for name in declared if name not in needed}
    return sorted(set(needed).difference(declared, misspelt)) if context.has_interface else []
