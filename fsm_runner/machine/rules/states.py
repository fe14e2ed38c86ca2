"""Rules about the fields of a single state."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted

_OWN_EVENTS = ("on_done", "on_error", "on_timeout")


@rule()
def final_state_only_ends(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.final_states.items():
        for key in ("invoke", "timeout_s", *_OWN_EVENTS, "retry", "ignore", "reject"):
            if getattr(state, key) not in (None, ()):
                yield Problem(("states", name, key), "has no meaning in a final state")


@rule()
def final_state_has_an_outcome(context: RuleContext) -> Iterator[Problem]:
    yield from _only_of_final_states(context, "outcome")


@rule()
def final_state_has_a_tone(context: RuleContext) -> Iterator[Problem]:
    yield from _only_of_final_states(context, "tone")


@rule()
def activity_has_its_ends(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.working_states.items():
        place: Path = ("states", name)
        if state.invoke is None:
            for key in ("on_done", "on_error", "retry"):
                if getattr(state, key) is not None:
                    yield Problem((*place, key), "has no meaning without `invoke`")
        else:
            for key in ("on_done", "on_error", "timeout_s"):
                if getattr(state, key) is None:
                    yield Problem(place, f"has an activity (`invoke`), but no `{key}`")


@rule()
def time_limit_has_its_event(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.working_states.items():
        if state.timeout_s is not None and state.on_timeout is None:
            yield Problem(("states", name, "timeout_s"), "has no effect without `on_timeout`")
        if state.timeout_s is None and state.on_timeout is not None:
            yield Problem(("states", name, "on_timeout"), "never happens without `timeout_s`")


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


def _only_of_final_states(context: RuleContext, key: str) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        if state.final and getattr(state, key) is None:
            yield Problem(("states", name), f"a final state needs `{key}`")
        if not state.final and getattr(state, key) is not None:
            yield Problem(("states", name, key), f"only a final state has `{key}`")
