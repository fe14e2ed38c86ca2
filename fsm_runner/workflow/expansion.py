"""Makes a machine of a workflow, which the checker, the engine and the renderers take like any other."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from fsm_runner.machine.defects import Path
from fsm_runner.machine.spec import Group, Spec, Transition
from fsm_runner.machine.spec import State as MachineState
from fsm_runner.util.text import truncated
from fsm_runner.workflow.definition import (
    COMPLETED,
    CONTINUE,
    FAILED,
    REPEAT,
    Branch,
    State,
    Wait,
    Workflow,
)

CHOSEN = "chosen"
INTERRUPTED = "interrupted"
EXHAUSTED = "exhausted"
_EVENTS = {
    EXHAUSTED: "The state has been visited as often as `max_visits` allows.",
    INTERRUPTED: "The runner's process ended during the activity, and `on_interrupted` does not repeat or continue it.",
    CHOSEN: "The state has no activity, so it is left at once.",
}
ANY_ACTIVITY = "any activity"
"""The group of all states with an activity. It has the default answers. No state can have its name."""
WALL_TIME = "max_wall_s"
"""The time limit of an activity without one of its own."""

_LABEL_CHARS = 80
_DEFAULT = (Branch(to=FAILED),)


class Expansion(NamedTuple):
    spec: Spec
    places: tuple[Path, ...]
    """For each transition, its place in the workflow's file: of a default that of its state, or of all states."""
    guards: dict[str, str]
    """The expression of each guard, by its name in `spec`: `STATE.EVENT.INDEX`."""


def expansion_of(workflow: Workflow) -> Expansion:
    """Return the machine of a workflow. It is sound if the workflow is.

    It has the states of the workflow under their own names, and those implicit final states that something leads to.
    """
    ways = [way for name, state in workflow.states.items() for way in _ways(name, state)]
    defaults = [*dict.fromkeys(way.event for way in ways if way.is_default)]
    own = [way for way in ways if not way.is_default]
    transitions = [
        *(Transition(source=ANY_ACTIVITY, event=event, to=FAILED) for event in defaults),
        *(_transition(way, index, branch) for way in own for index, branch in enumerate(way.branches)),
    ]
    places: list[Path] = [("states",) for _ in defaults]
    places += [way.place(index) for way in own for index in range(len(way.branches))]
    targets = {workflow.initial, *(transition.to for transition in transitions)}
    states = {name: state for name, state in workflow.all_states.items() if name in workflow.states or name in targets}
    outside = {way.event for way in ways} & _EVENTS.keys()
    spec = Spec(
        name=workflow.name,
        initial=workflow.initial,
        doc=workflow.doc,
        events={event: doc for event, doc in _EVENTS.items() if event in outside},
        states={name: _state(state, outside) for name, state in states.items()},
        groups=_groups(workflow, ways, outside),
        transitions=_with_main_path(workflow, transitions),
    )
    guards = {
        _guard_name(way, index): branch.when
        for way in own
        for index, branch in enumerate(way.branches)
        if branch.when is not None
    }
    return Expansion(spec, tuple(places), guards)


def labelled(expansion: Expansion) -> Spec:
    """Return the machine for a drawing: the expression of each guard is its name."""

    def label(transition: Transition) -> Transition:
        if transition.guard is None:
            return transition
        expression = " ".join(expansion.guards[transition.guard].split())
        return msgspec.structs.replace(transition, guard=truncated(expression, _LABEL_CHARS))

    return msgspec.structs.replace(expansion.spec, transitions=tuple(map(label, expansion.spec.transitions)))


class _Way(NamedTuple):
    """What follows one event in one state."""

    state: str
    event: str
    declared: Path
    """Its place in the file; that of the state if the file does not say what follows."""
    branches: tuple[Branch, ...]
    is_list: bool

    @property
    def is_default(self) -> bool:
        """Whether the answer of the group is the same."""
        return self.branches == _DEFAULT and self.event not in ("done", CHOSEN, EXHAUSTED)

    def place(self, index: int) -> Path:
        return (*self.declared, index, "to") if self.is_list else self.declared


def is_choice(state: State) -> bool:
    return state.activity is None and not state.final


def follows(state: State, event: str) -> tuple[Branch, ...]:
    """Return what follows an event of the machine in a state, defaults included."""
    if event == INTERRUPTED:
        is_state = state.on_interrupted not in (None, REPEAT, CONTINUE)
        return (Branch(to=state.on_interrupted or FAILED),) if is_state else _DEFAULT
    return state.branches("done" if event == CHOSEN else event) or _DEFAULT


def events_of(state: State) -> dict[str, str]:
    """Return the events that a state answers, and the key in the file for each."""
    if state.final:
        return {}
    if is_choice(state):
        return {CHOSEN: "on_done"}
    late = "denied" if state.approval is not None else "timeout"
    counted = {EXHAUSTED: "on_exhausted"} if state.max_visits is not None else {}
    return {"done": "on_done", "error": "on_error", late: f"on_{late}", **counted, INTERRUPTED: "on_interrupted"}


def _ways(name: str, state: State) -> Iterator[_Way]:
    for event, key in events_of(state).items():
        declared = getattr(state, key)
        place = ("states", name) if declared is None else ("states", name, key)
        yield _Way(name, event, place, follows(state, event), isinstance(declared, tuple))


def _guard_name(way: _Way, index: int) -> str:
    return f"{way.state}.{way.event}.{index}"


def _transition(way: _Way, index: int, branch: Branch) -> Transition:
    guard = None if branch.when is None else _guard_name(way, index)
    return Transition(source=way.state, event=way.event, to=branch.to, guard=guard)


def _state(state: State, outside: set[str]) -> MachineState:
    if state.final:
        outcome = state.outcome or COMPLETED
        return MachineState(doc=state.doc, final=True, outcome=outcome, tone="good" if outcome == COMPLETED else "bad")
    if is_choice(state):
        return MachineState(doc=state.doc, ignore=tuple(event for event in _EVENTS if event in outside - {CHOSEN}))
    wait_s = state.wait.for_s if isinstance(state.wait, Wait) else None
    return MachineState(
        doc=state.doc,
        invoke=next(iter(state.activities)),
        timeout_s=state.timeout_s or wait_s or WALL_TIME,
        on_done="done",
        on_error="error",
        on_timeout="denied" if state.approval is not None else "timeout",
    )


def _groups(workflow: Workflow, ways: list[_Way], outside: set[str]) -> dict[str, Group]:
    members = [name for name, state in workflow.states.items() if events_of(state) and not is_choice(state)]
    if not members:
        return {}
    answered = {(way.state, way.event) for way in ways}
    ignored = [event for event in _EVENTS if event in outside and any((it, event) not in answered for it in members)]
    return {ANY_ACTIVITY: Group(states=tuple(members), ignore=tuple(ignored))}


def _with_main_path(workflow: Workflow, transitions: list[Transition]) -> tuple[Transition, ...]:
    """Mark the shortest path of successes from the initial state to a final one that completes the run."""
    path: dict[str, tuple[int, ...]] = {workflow.initial: ()}
    waiting = [workflow.initial]
    for name in waiting:
        state = workflow.all_states.get(name)
        if state is not None and state.final and state.outcome == COMPLETED:
            main = set(path[name])
            marked = (msgspec.structs.replace(it, main=number in main) for number, it in enumerate(transitions))
            return tuple(marked)
        for number, transition in enumerate(transitions):
            is_success = transition.source == name and transition.event in ("done", CHOSEN)
            if is_success and transition.to not in path:
                path[transition.to] = (*path[name], number)
                waiting.append(transition.to)
    return tuple(transitions)
