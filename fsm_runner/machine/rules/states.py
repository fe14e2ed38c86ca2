"""Rules about what a single state says."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.machine.rules.case import Case, rule
from fsm_runner.util.text import quoted

_ENDS = ("on_done", "on_error", "on_timeout")


@rule()
def final_state_only_ends(case: Case) -> Iterator[Problem]:
    for name, state in case.final:
        for key in ("invoke", "timeout_s", *_ENDS, "retry", "ignore", "reject"):
            if getattr(state, key) not in (None, ()):
                yield Problem(("states", name, key), "a final state does nothing: this has no meaning here")


@rule()
def final_state_has_an_outcome(case: Case) -> Iterator[Problem]:
    for name, state in case.final:
        if state.outcome is None:
            yield Problem(("states", name), "a final state needs an `outcome`")
    for name, state in case.work:
        if state.outcome is not None:
            yield Problem(("states", name, "outcome"), "only a final state has an outcome")


@rule()
def final_state_has_a_tone(case: Case) -> Iterator[Problem]:
    for name, state in case.final:
        if state.tone is None:
            yield Problem(("states", name), "a final state needs a `tone`: good, bad or neutral")
    for name, state in case.work:
        if state.tone is not None:
            yield Problem(("states", name, "tone"), "only a final state has a tone")


@rule()
def activity_has_its_ends(case: Case) -> Iterator[Problem]:
    for name, state in case.work:
        place: Path = ("states", name)
        if state.invoke is None:
            for key in ("on_done", "on_error", "retry"):
                if getattr(state, key) is not None:
                    yield Problem((*place, key), "has no meaning without `invoke`")
            continue
        for key in ("on_done", "on_error"):
            if getattr(state, key) is None:
                yield Problem(place, f"the state works (`invoke`) and says nothing of `{key}`")
        if state.timeout_s is None:
            yield Problem(place, "the state works (`invoke`) without a time limit (`timeout_s`)")


@rule()
def time_limit_has_its_event(case: Case) -> Iterator[Problem]:
    for name, state in case.work:
        if state.timeout_s is not None and state.on_timeout is None:
            yield Problem(("states", name, "timeout_s"), "has no `on_timeout`: nothing would happen then")
        if state.timeout_s is None and state.on_timeout is not None:
            yield Problem(("states", name, "on_timeout"), "has no `timeout_s`: this would never happen")


@rule()
def own_event_is_not_declared(case: Case) -> Iterator[Problem]:
    for name, state in case.spec.states.items():
        for key in _ENDS:
            if (event := getattr(state, key)) in case.spec.events:
                message = f"{quoted(event)} is in [events] too: what comes from outside must not look like an end"
                yield Problem(("states", name, key), message)


@rule()
def retry_bounds_are_ordered(case: Case) -> Iterator[Problem]:
    for name, state in case.spec.states.items():
        if state.retry is not None and state.retry.cap_s < state.retry.base_s:
            message = f"is below base_s ({state.retry.cap_s:g} < {state.retry.base_s:g})"
            yield Problem(("states", name, "retry", "cap_s"), message)


RULES = (
    final_state_only_ends,
    final_state_has_an_outcome,
    final_state_has_a_tone,
    activity_has_its_ends,
    time_limit_has_its_event,
    own_event_is_not_declared,
    retry_bounds_are_ordered,
)
