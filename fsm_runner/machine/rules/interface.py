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
def actor_knows_each_name(context: RuleContext) -> Iterator[Problem]:
    for kind, path, name in _used_names(context) if context.has_interface else ():
        known: frozenset[str] = getattr(context.interface, kind)
        if name not in known:
            hint = similar(name, known) or f"; it has {', '.join(sorted(known)) or 'none'}"
            yield Problem(path, f"{quoted(name)} is not one of the {kind} of this machine's actor{hint}")


@rule("events", "tags", "states")
def actor_finds_each_name(context: RuleContext) -> Iterator[Problem]:
    outcomes = [state.outcome for state in context.final_states.values() if state.outcome is not None]
    for event in _missing(context.spec.events, context.interface.events):
        yield Problem(("events",), f"the actor of this machine posts {quoted(event)}, which is not declared")
    for tag in _missing(context.spec.tags, context.interface.tags):
        yield Problem(("tags",), f"the actor of this machine looks for {quoted(tag)}, which is not declared")
    for outcome in _missing(outcomes, context.interface.outcomes):
        message = f"the actor of this machine needs a final state with the outcome {quoted(outcome)}"
        yield Problem(("states",), message)


def _used_names(context: RuleContext) -> Iterator[tuple[str, Path, str]]:
    """Yield the field of the interface, the place and the name for each name that the actor must know."""
    spec = context.spec
    yield from (("events", ("events", event), event) for event in spec.events)
    yield from (("tags", ("tags", tag), tag) for tag in spec.tags)
    for name, state in spec.states.items():
        if state.invoke is not None:
            yield "activities", ("states", name, "invoke"), state.invoke
        if isinstance(state.timeout_s, str):
            yield "settings", ("states", name, "timeout_s"), state.timeout_s
        if state.final and state.outcome is not None:
            yield "outcomes", ("states", name, "outcome"), state.outcome
    for index, transition in enumerate(spec.transitions):
        if transition.guard is not None:
            yield "guards", ("transitions", index, "guard"), transition.guard


def _missing(declared: Collection[str], needed: Collection[str]) -> list[str]:
    """Return the needed names that are not declared, without those that are probably declared with a misspelling."""
    misspelt = {closest(name, needed) for name in declared if name not in needed}
    return sorted(set(needed).difference(declared, misspelt))
