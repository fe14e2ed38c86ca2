"""Rules about the paths through a machine. They assume that every guard can hold."""

from collections.abc import Iterable, Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted


@rule("initial", "states", "groups", "transitions")
def state_can_be_reached(context: RuleContext) -> Iterator[Problem]:
    if context.spec.initial not in context.spec.states or not context.has_only_known_states:
        return
    reached = _closure([context.spec.initial], context.edges)
    for name in context.spec.states.keys() - reached:
        yield Problem(("states", name), f"cannot be reached from the initial state {quoted(context.spec.initial)}")


@rule("states", "groups", "transitions")
def state_can_end(context: RuleContext) -> Iterator[Problem]:
    if not context.final_states:
        yield Problem(("states",), "no state is final: the machine never ends")
    elif context.has_only_known_states:
        ending = _closure(context.final_states, [(target, source) for source, target in context.edges])
        for name in context.spec.states.keys() - ending:
            yield Problem(("states", name), "no final state can be reached from here")


@rule()
def final_state_has_no_way_out(context: RuleContext) -> Iterator[Problem]:
    for index, transition in enumerate(context.spec.transitions):
        for source in context.final_states.keys() & set(transition.sources):
            yield Problem(("transitions", index, "from"), f"{quoted(source)} is final: no transition starts from it")


@rule("initial", "states", "groups", "transitions")
def main_path_is_connected(context: RuleContext) -> Iterator[Problem]:
    if not context.has_only_known_states:
        return
    main = [(index, transition) for index, transition in enumerate(context.flat.transitions) if transition.main]
    on_path = {context.spec.initial, *(transition.to for _, transition in main)}
    for index, transition in main:
        if on_path.isdisjoint(transition.sources):
            message = "starts neither in the initial state nor where another transition with `main` leads"
            yield Problem(("transitions", index, "main"), message)


def _closure(start: Iterable[str], edges: list[tuple[str, str]]) -> set[str]:
    onward: dict[str, list[str]] = {}
    for source, target in edges:
        onward.setdefault(source, []).append(target)
    reached = set(start)
    waiting = list(reached)
    while waiting:
        found = set(onward.get(waiting.pop(), ())) - reached
        reached |= found
        waiting += found
    return reached
