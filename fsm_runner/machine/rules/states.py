"""Rules about states: the fields of each, and the paths between them."""

from collections.abc import Iterable, Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted

_OWN_EVENTS = ("on_done", "on_error", "on_timeout")
_NEVER_IN_FINAL_STATES = ("invoke", "timeout_s", *_OWN_EVENTS, "retry", "ignore", "reject")
_NEEDED = {
    "invoke": ("on_done", "on_error", "timeout_s"),
    "on_done": ("invoke",),
    "on_error": ("invoke",),
    "retry": ("invoke",),
    "timeout_s": ("on_timeout",),
    "on_timeout": ("timeout_s",),
}
"""The fields that a field of a state needs beside it."""


@rule()
def final_state_has_its_own_fields(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        for key in ("outcome", "tone"):
            if state.final and getattr(state, key) is None:
                yield Problem(("states", name), f"a final state needs `{key}`")
        if not state.final and state.outcome is not None:
            yield Problem(("states", name, "outcome"), "only a final state has `outcome`")
        for key in _NEVER_IN_FINAL_STATES:
            if state.final and getattr(state, key):
                yield Problem(("states", name, key), "has no meaning in a final state")


@rule()
def fields_come_together(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        for key, needed in _NEEDED.items():
            for other in needed:
                if not state.final and getattr(state, key) is not None and getattr(state, other) is None:
                    yield Problem(("states", name, key), f"needs `{other}`")
    for index, transition in enumerate(context.spec.transitions):
        if transition.provisional and transition.decides is None:
            yield Problem(("transitions", index, "provisional"), "needs `decides`")


@rule()
def own_event_is_not_declared(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        for key in _OWN_EVENTS:
            if (event := getattr(state, key)) in context.spec.events:
                message = f"{quoted(event)} is in [events] too: an event from outside needs a name of its own"
                yield Problem(("states", name, key), message)


@rule()
def retry_bounds_are_ordered(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        if state.retry is not None and state.retry.cap_s < state.retry.base_s:
            message = f"is below base_s ({state.retry.cap_s:g} < {state.retry.base_s:g})"
            yield Problem(("states", name, "retry", "cap_s"), message)


# The paths through the machine. These rules assume that every guard can hold.


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
    if context.spec.initial not in context.spec.states or not context.has_only_known_states:
        return
    main = [(index, transition) for index, transition in enumerate(context.flat.transitions) if transition.main]
    edges = [(source, transition.to) for _, transition in main for source in transition.sources]
    on_path = _closure([context.spec.initial], edges)
    targets = {target for _, target in edges}
    # The start of a separate path comes first, so that the path has one finding.
    for index, transition in sorted(main, key=lambda it: not targets.isdisjoint(it[1].sources)):
        if on_path.isdisjoint(transition.sources):
            yield Problem(("transitions", index, "main"), "no transitions with `main` lead here from the initial state")
            on_path |= _closure(transition.sources, edges)


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
