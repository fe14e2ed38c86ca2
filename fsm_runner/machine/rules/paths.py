"""Rules about the ways through a machine. A guard is taken to hold: it may."""

from collections.abc import Iterable, Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.rules.case import Case, rule
from fsm_runner.util.text import quoted


@rule("initial", "states", "groups", "transitions")
def state_can_be_reached(case: Case) -> Iterator[Problem]:
    if case.spec.initial not in case.spec.states or not case.has_only_known_states:
        return
    reached = _closure([case.spec.initial], case.steps)
    for name in case.spec.states:
        if name not in reached:
            yield Problem(("states", name), f"cannot be reached from the initial state {quoted(case.spec.initial)}")


@rule("states", "groups", "transitions")
def state_can_end(case: Case) -> Iterator[Problem]:
    if not case.final:
        yield Problem(("states",), "no state is final: the machine never ends")
        return
    if not case.has_only_known_states:
        return
    ending = _closure((name for name, _ in case.final), [(target, source) for source, target in case.steps])
    for name in case.spec.states:
        if name not in ending:
            yield Problem(("states", name), "no final state can be reached from here")


@rule()
def final_state_has_no_way_out(case: Case) -> Iterator[Problem]:
    final = {name for name, _ in case.final}
    for index, transition in enumerate(case.spec.transitions):
        for source in transition.sources:
            if source in final:
                yield Problem(("transitions", index, "from"), f"{quoted(source)} is final: no way leads out of it")


@rule("initial", "states", "groups", "transitions")
def main_path_is_connected(case: Case) -> Iterator[Problem]:
    if not case.has_only_known_states:
        return
    main = [(index, way) for index, way in enumerate(case.flat.transitions) if way.main]
    on_path = {case.spec.initial, *(way.to for _, way in main)}
    for index, way in main:
        if on_path.isdisjoint(way.sources):
            message = "starts neither in the initial state nor where another transition with `main` leads"
            yield Problem(("transitions", index, "main"), message)


RULES = (state_can_be_reached, state_can_end, final_state_has_no_way_out, main_path_is_connected)


def _closure(start: Iterable[str], steps: list[tuple[str, str]]) -> set[str]:
    onward: dict[str, list[str]] = {}
    for source, target in steps:
        onward.setdefault(source, []).append(target)
    reached = set(start)
    waiting = list(reached)
    while waiting:
        for target in onward.get(waiting.pop(), ()):
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    return reached
