"""The rules about the keys of a state: which belong together, and what an activity needs."""

from collections.abc import Iterator
from datetime import datetime

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.definition import ACTIVITY_KEYS, CONTINUE, ENDINGS, FAILED, Agent, Approval, State, Turn, Wait

_ONLY_IN_FINAL_STATES = ("outcome", "error")
_NEVER_IN_FINAL_STATES = (
    *ACTIVITY_KEYS,
    "assigns",
    "schema",
    "timeout_s",
    "max_visits",
    *(f"on_{event}" for event in (*ENDINGS, "interrupted")),
)
_NEEDS_ACTIVITY = [key for key in _NEVER_IN_FINAL_STATES if key not in (*ACTIVITY_KEYS, "on_done")]
_NEEDS_EACH = ("at_once", "may_fail")


def keys_go_together(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        place: Path = ("states", name)
        if state.final:
            yield from _of_final_state(state, place)
        elif not state.activities:
            yield from _of_choice(state, place)
        else:
            yield from _of_state(state, place)


def _of_final_state(state: State, place: Path) -> Iterator[Problem]:
    for key in _NEVER_IN_FINAL_STATES:
        if getattr(state, key) is not None:
            yield Problem((*place, key), "has no meaning in a final state: remove it")
    if state.outcome is None:
        yield Problem(place, 'a final state needs `outcome`: "completed" or "failed"')
    if state.error is not None and state.outcome != FAILED:
        yield Problem((*place, "error"), 'only a final state with `outcome = "failed"` has an error')


def _of_choice(state: State, place: Path) -> Iterator[Problem]:
    activity = f"an activity ({', '.join(ACTIVITY_KEYS)})"
    if keys := [f"`{key}`" for key in _NEEDS_ACTIVITY if getattr(state, key) is not None]:
        yield Problem(place, f"needs {activity}, because it has {', '.join(keys)}")
    elif keys := [f"`{key}`" for key in _ONLY_IN_FINAL_STATES if getattr(state, key) is not None]:
        yield Problem(place, f"needs `final = true`, because it has {' and '.join(keys)}")
    elif state.on_done is None:
        yield Problem(place, f"needs {activity}, `on_done`, or `final = true`")


def _of_state(state: State, place: Path) -> Iterator[Problem]:
    if len(state.activities) > 1:
        names = " and ".join(state.activities)
        yield Problem(place, f"has several activities, {names}: a state has one; use a state for each")
    if state.on_done is None:
        yield Problem(place, 'needs `on_done`, the next state, such as on_done = "completed"')
    for key in _ONLY_IN_FINAL_STATES:
        if getattr(state, key) is not None:
            yield Problem((*place, key), f"only a final state has `{key}`")
    if isinstance(state.activity, Approval):
        for key in ("on_denied", "timeout_s"):
            if getattr(state, key) is None:
                yield Problem((*place, "approval"), f"needs `{key}` in its state")
        if state.on_timeout is not None:
            yield Problem((*place, "on_timeout"), "an approval that is late is denied: use `on_denied`")
    else:
        if state.on_denied is not None:
            yield Problem((*place, "on_denied"), "only an approval can be denied")
        if state.on_timeout is not None and state.timeout_s is None:
            yield Problem((*place, "on_timeout"), "needs `timeout_s`")
    if state.on_exhausted is not None and state.max_visits is None:
        yield Problem((*place, "on_exhausted"), "needs `max_visits`")
    if isinstance(state.activity, Approval | Wait):
        kind = next(iter(state.activities))
        if state.schema is not None:
            yield Problem((*place, "schema"), f"{kind} produces no `data`: remove it")
        if state.on_interrupted is not None:
            yield Problem((*place, "on_interrupted"), f"{kind} always continues after an interruption: remove it")
    if state.on_interrupted == CONTINUE and not isinstance(state.activity, Turn):
        message = 'only a turn can continue: use "repeat", or the name of a state'
        yield Problem((*place, "on_interrupted"), message)


def arguments_go_together(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        for key, activity in state.activities.items():
            place: Path = ("states", name, key)
            match activity:
                case Turn(prompt=str(), parameters=dict()):
                    message = "a turn has either `prompt` or `parameters`: parameters may contain the prompt"
                    yield Problem((*place, "prompt"), message)
                case Agent(each=None):
                    for argument in _NEEDS_EACH:
                        if getattr(activity, argument):
                            yield Problem((*place, argument), "needs `each`, a list with an element for each child")
                case Wait():
                    yield from _of_wait(activity, place)


def _of_wait(wait: Wait, place: Path) -> Iterator[Problem]:
    if (wait.for_s is None) == (wait.until is None):
        yield Problem(place, "needs exactly one of `for_s` and `until`")
    if wait.until is None or "${" in wait.until:
        return
    example = '; write a time such as "2026-03-01T09:00:00+01:00"'
    try:
        if datetime.fromisoformat(wait.until).tzinfo is None:
            message = f"{quoted(wait.until)} has no offset, so it would be a local time{example}"
            yield Problem((*place, "until"), message)
    except ValueError:
        yield Problem((*place, "until"), f"{quoted(wait.until)} is not a time{example}")
