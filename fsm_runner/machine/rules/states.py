"""Rules about the fields of a state or a transition."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.rules.context import RuleContext, rule
from fsm_runner.util.text import quoted

_OWN_EVENTS = ("on_done", "on_error", "on_timeout")
_ONLY_IN_FINAL_STATES = ("outcome", "tone")
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
        for key in _ONLY_IN_FINAL_STATES:
            if state.final and getattr(state, key) is None:
                yield Problem(("states", name), f"a final state needs `{key}`")
            if not state.final and getattr(state, key) is not None:
                yield Problem(("states", name, key), f"only a final state has `{key}`")
        for key in _NEVER_IN_FINAL_STATES:
            if state.final and getattr(state, key):
                yield Problem(("states", name, key), "has no meaning in a final state")


@rule()
def fields_come_together(context: RuleContext) -> Iterator[Problem]:
    for name, state in context.spec.states.items():
        for key, needed in _NEEDED.items() if not state.final else ():
            for other in needed:
                if getattr(state, key) is not None and getattr(state, other) is None:
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
