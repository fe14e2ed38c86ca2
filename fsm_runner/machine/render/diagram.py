"""What every drawing of a machine shows, before it takes a form."""

from enum import Enum
from typing import NamedTuple

from fsm_runner.machine.groups import flatten
from fsm_runner.machine.spec import Retry, Spec, State, Transition


class Tone(Enum):
    """What a state is, for its colour."""

    WORKING = "working"
    WAITING = "waiting"
    GOOD = "good"
    """An end whose declared tone is `good`."""
    BAD = "bad"
    """An end whose declared tone is `bad`."""
    ENDED = "ended"
    """An end whose declared tone is `neutral`."""


class Node(NamedTuple):
    id: str
    """Safe in every format: `s1`, `s2`, … in the order of the file."""
    name: str
    state: State
    tone: Tone
    is_initial: bool


class Label(NamedTuple):
    """One transition, as it stands at an arrow."""

    event: str
    guard: str | None
    decides: str | None
    is_failure: bool
    """It is taken when an activity failed or a time limit passed."""

    def __str__(self) -> str:
        """`event [guard] / outcome that it decides`, on one line."""
        guard = f" [{one_line(self.guard)}]" if self.guard is not None else ""
        decides = f" / {one_line(self.decides)}" if self.decides is not None else ""
        return f"{one_line(self.event)}{guard}{decides}"


class Edge(NamedTuple):
    """All transitions from one state to another."""

    source: Node
    target: Node
    labels: tuple[Label, ...]


class Diagram(NamedTuple):
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def diagram(spec: Spec) -> Diagram:
    """The nodes and edges of a spec. A name that is no state is drawn like one, so that the mistake can be seen."""
    spec = flatten(spec)
    named = (spec.initial, *(name for way in spec.transitions for name in (*way.sources, way.to)))
    names = dict.fromkeys((*spec.states, *named))
    nodes = {
        name: Node(f"s{number}", name, state := spec.states.get(name, State()), _tone(state), name == spec.initial)
        for number, name in enumerate(names, 1)
    }
    labels: dict[tuple[str, str], dict[Label, None]] = {}
    for way in spec.transitions:
        for source in way.sources:
            label = Label(way.event, way.guard, way.decides, is_failure(nodes[source].state, way))
            labels.setdefault((source, way.to), {})[label] = None
    edges = (Edge(nodes[source], nodes[to], tuple(found)) for (source, to), found in labels.items())
    return Diagram(tuple(nodes.values()), tuple(edges))


def is_failure(state: State, transition: Transition) -> bool:
    return transition.event in (state.on_error, state.on_timeout) and transition.event != state.on_done


def _tone(state: State) -> Tone:
    if not state.final:
        return Tone.WAITING if state.invoke is None else Tone.WORKING
    return {"good": Tone.GOOD, "bad": Tone.BAD}.get(state.tone or "", Tone.ENDED)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, blanks run together."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def duration(limit: float | str) -> str:
    """`10 s`, `24 h`, or the name of the setting that says how long."""
    if isinstance(limit, str):
        return limit
    for unit, seconds in (("h", 3600), ("min", 60)):
        if limit >= seconds and limit % seconds == 0:
            return f"{limit / seconds:g} {unit}"
    return f"{limit:g} s"


def retries(retry: Retry) -> str:
    times = "1 retry" if retry.times == 1 else f"{retry.times} retries"
    return f"{times}, {duration(retry.base_s)} to {duration(retry.cap_s)} apart"


def facts(state: State) -> list[str]:
    """What a state does, each in a few words: its activity, time limit, retries, or how it ends."""
    found = []
    if state.final:
        found.append(f"outcome: {state.outcome or 'none'}")
    if state.invoke is not None:
        found.append(f"does {state.invoke}")
    if state.timeout_s is not None:
        found.append(f"at most {duration(state.timeout_s)}")
    if state.retry is not None:
        found.append(retries(state.retry))
    return found
