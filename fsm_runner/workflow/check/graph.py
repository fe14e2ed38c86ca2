"""The ways from state to state. Guards are ignored: each branch may be taken."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple, TypeVar

from fsm_runner.machine.defects import Path
from fsm_runner.workflow.check.fields import assigned
from fsm_runner.workflow.definition import CONTINUE, FAILED, REPEAT, Branch, State, Workflow

INTERRUPTED = "interrupted"
_Node = TypeVar("_Node", bound=Hashable)


class Edge(NamedTuple):
    source: str
    event: str
    """An ending of the activity, `interrupted`, or `done` of a choice."""
    target: str
    branch: Branch
    place: Path
    """The place of the branch in the file, or of the state for a default."""

    @property
    def text(self) -> str:
        """The source, as a path from state to state contains it."""
        return self.source if self.event == "done" else f"{self.source} (on_{self.event})"


def events_of(state: State) -> tuple[str, ...]:
    """Return what can happen in a state."""
    if state.final:
        return ()
    if state.activity is None:
        return ("done",)
    late = "denied" if state.approval is not None else "timeout"
    return ("done", "error", late, INTERRUPTED)


def edges_for(name: str, state: State, event: str) -> Iterator[Edge]:
    """Yield the edges for an event in a state, or for its exhaustion."""
    place: Path = ("states", name, f"on_{event}")
    if event == INTERRUPTED:
        if state.on_interrupted not in (None, REPEAT, CONTINUE):
            yield Edge(name, event, str(state.on_interrupted), Branch(to=str(state.on_interrupted)), place)
        return
    declared = getattr(state, f"on_{event}")
    branches = state.branches(event)
    for index, branch in enumerate(branches):
        yield Edge(name, event, branch.to, branch, (*place, index) if isinstance(declared, tuple) else place)
    if not branches and event != "done":
        yield Edge(name, event, FAILED, Branch(to=FAILED), ("states", name))


class Graph:
    """The edges between known states."""

    def __init__(self, definition: Workflow) -> None:
        self.definition = definition
        self.states = definition.all_states
        self.edges: dict[str, list[Edge]] = {}
        """By source: the edges of the activity's endings."""
        self.exhausted: dict[str, list[Edge]] = {}
        """By source: what follows when `max_visits` is used up."""
        for name, state in self.states.items():
            found = [edge for event in events_of(state) for edge in edges_for(name, state, event)]
            self.edges[name] = [edge for edge in found if edge.target in self.states]
            if state.max_visits is not None:
                edges = edges_for(name, state, "exhausted")
                self.exhausted[name] = [edge for edge in edges if edge.target in self.states]

    @cached_property
    def reachable(self) -> frozenset[str]:
        """The states that can be entered."""
        return frozenset(closure([self.definition.initial], self._next)) & self.states.keys()

    def _next(self, name: str) -> Iterator[str]:
        is_entered_again = name in self.exhausted and name in self.after(name)
        for edge in (*self.edges.get(name, ()), *(self.exhausted[name] if is_entered_again else ())):
            yield edge.target

    def after(self, name: str) -> frozenset[str]:
        """Return the states that can be entered after a visit of a state, itself only if it can be entered again."""
        if name not in self._after:
            self._after[name] = frozenset(closure([edge.target for edge in self.edges.get(name, ())], self._any_next))
        return self._after[name]

    @cached_property
    def _after(self) -> dict[str, frozenset[str]]:
        return {}

    def _any_next(self, name: str) -> Iterator[str]:
        for edge in (*self.edges.get(name, ()), *self.exhausted.get(name, ())):
            yield edge.target

    def proven_by_exhaustion(self, name: str) -> frozenset[tuple[str, str]]:
        """Return the fields (value, field) that exist whenever a bounded state is exhausted, since it was visited.

        The value may be that of another state that assigns the same name. A visit that was interrupted assigns
        nothing, so a state that continues elsewhere after an interruption proves nothing.
        """
        if any(edge.event == INTERRUPTED for edge in self.edges[name]) or self.states[name].activity is None:
            return frozenset()
        value = self.definition.value_of(name)
        proven: frozenset[str] | None = None
        for other, state in self.definition.states.items():
            if self.definition.value_of(other) == value and state.activity is not None:
                for edge in self.edges[other]:
                    if edge.event != INTERRUPTED and not self.states[edge.target].final:
                        fields = assigned(state, edge.event)
                        proven = fields if proven is None else proven & fields
        return frozenset((value, field) for field in proven or ())


def closure(start: Iterable[_Node], onward: Callable[[_Node], Iterable[_Node]]) -> set[_Node]:
    """Return all nodes that can be reached, with the first ones."""
    reached = set(start)
    waiting = list(reached)
    while waiting:
        for node in onward(waiting.pop()):
            if node not in reached:
                reached.add(node)
                waiting.append(node)
    return reached


def path_text(edges: Iterable[Edge], target: str) -> str:
    """Return a path as text: `write → review (on_error) → failed`."""
    return " → ".join([*(edge.text for edge in edges), target])
