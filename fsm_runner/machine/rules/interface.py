"""Rules about what the machine asks of its actor. Without a vocabulary they have nothing to say."""

from collections.abc import Collection, Iterator

from fsm_runner.machine.decoder import Problem, closest, similar
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.case import Case, rule
from fsm_runner.util.text import quoted


@rule()
def activity_is_known(case: Case) -> Iterator[Problem]:
    if case.vocabulary is not None:
        for name, state in case.spec.states.items():
            if state.invoke is not None:
                yield from _known(state.invoke, case.vocabulary.activities, ("states", name, "invoke"), "activity")


@rule()
def setting_is_known(case: Case) -> Iterator[Problem]:
    if case.vocabulary is not None:
        for name, state in case.spec.states.items():
            if isinstance(state.timeout_s, str):
                yield from _known(state.timeout_s, case.vocabulary.settings, ("states", name, "timeout_s"), "setting")


@rule()
def guard_is_known(case: Case) -> Iterator[Problem]:
    if case.vocabulary is not None:
        for index, transition in enumerate(case.spec.transitions):
            if transition.guard is not None:
                yield from _known(transition.guard, case.vocabulary.guards, ("transitions", index, "guard"), "guard")


@rule("events")
def events_are_those_of_the_actor(case: Case) -> Iterator[Problem]:
    if case.vocabulary is not None:
        posted = case.vocabulary.events
        for event in case.spec.events:
            if event not in posted:
                message = f"the actor of this machine never posts {quoted(event)}{similar(event, posted)}"
                yield Problem(("events", event), message)
        meant = {closest(event, posted) for event in case.spec.events.keys() - posted}
        for event in sorted(posted - case.spec.events.keys() - meant):
            yield Problem(("events",), f"the actor of this machine posts {quoted(event)}, which is not declared")


RULES = (activity_is_known, setting_is_known, guard_is_known, events_are_those_of_the_actor)


def _known(name: str, known: Collection[str], place: Path, kind: str) -> Iterator[Problem]:
    if name not in known:
        hint = similar(name, known) or (f"; there are {', '.join(sorted(known))}" if known else "; there is none")
        yield Problem(place, f"{quoted(name)} is no {kind} of this machine's actor{hint}")
