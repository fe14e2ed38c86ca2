"""The graph whose nodes are visits of states and exhausted states, with the fields that each edge assigns."""

from collections import deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from fsm_runner.workflow.check.fields import assigned
from fsm_runner.workflow.check.graph import INTERRUPTED, Edge, Graph

EXHAUSTED = "exhausted"
WATCHED_LIMIT = 4
"""For how many states a search for a path looks whether they were visited. Its time doubles with each."""
Fact = tuple[str, str]
"""A value and its field: it exists."""


class Node(NamedTuple):
    state: str
    is_exhausted: bool = False
    """Whether the state is not visited, because `max_visits` is used up."""


class Flow:
    """An edge into a bounded state leads to the visit and, if the state may have been visited before, to exhaustion."""

    def __init__(self, graph: Graph, start: str, given: Collection[Fact] = ()) -> None:
        """`given`: the facts that hold in the state `start`."""
        self.graph = graph
        self.start = Node(start)
        self._numbers: dict[Fact, int] = {}
        self._values: dict[str, int] = {}
        """By name of a value: the mask of all its fields."""
        for name, state in graph.definition.states.items():
            if state.activity is not None:
                for edge in graph.edges[name]:
                    for field in assigned(state, edge.event):
                        self._add((graph.definition.value_of(name), field))
        for fact in given:
            self._add(fact)
        self._given = sum(self.mask(fact) for fact in set(given))
        self._proven = {name: self._mask(graph.proven_by_exhaustion(name)) for name in graph.exhausted}
        self.existing = self._existing()

    def _add(self, fact: Fact) -> None:
        number = self._numbers.setdefault(fact, len(self._numbers))
        self._values[fact[0]] = self._values.get(fact[0], 0) | 1 << number

    def mask(self, fact: Fact) -> int:
        """Return the bit of a fact; 0 if nothing ever assigns it."""
        return 1 << self._numbers[fact] if fact in self._numbers else 0

    def _mask(self, facts: frozenset[Fact]) -> int:
        return sum(self.mask(fact) for fact in facts)

    def edges(self, node: Node) -> list[Edge]:
        return self.graph.exhausted[node.state] if node.is_exhausted else self.graph.edges.get(node.state, [])

    def after(self, node: Node, edge: Edge, before: int) -> int:
        """Return the facts behind an edge, given those in its node."""
        if node.is_exhausted:
            return before | self._proven[node.state]
        state = self.graph.states[node.state]
        if state.activity is None or edge.event == INTERRUPTED:
            return before
        value = self.graph.definition.value_of(node.state)
        fields = frozenset((value, field) for field in assigned(state, edge.event))
        return before & ~self._values.get(value, 0) | self._mask(fields)

    def targets(self, node: Node, edge: Edge) -> Iterator[Node]:
        yield Node(edge.target)
        if edge.target in self.graph.exhausted and (
            node.state == edge.target or node.state in self.graph.after(edge.target)
        ):
            yield Node(edge.target, True)

    def _existing(self) -> dict[Node, int]:
        """Return the facts that hold in each node that can be reached, whatever the path to it."""
        existing = {self.start: self._given}
        waiting = deque([self.start])
        is_waiting = {self.start}
        while waiting:
            node = waiting.popleft()
            is_waiting.remove(node)
            for edge in self.edges(node):
                facts = self.after(node, edge, existing[node])
                for target in self.targets(node, edge):
                    known = existing.get(target)
                    if known is None or known & facts != known:
                        existing[target] = facts if known is None else known & facts
                        if target not in is_waiting:
                            is_waiting.add(target)
                            waiting.append(target)
        return existing

    def path_without(self, bit: int, goal: Node, last: Edge | None = None) -> tuple[Edge, ...] | None:
        """Return a shortest path to a node on which a fact does not exist there; None if no run can take one.

        `last`: the fact does not exist behind this edge of the node.
        """
        watched: frozenset[str] = frozenset()
        while True:
            path = self._search(bit, goal, last, watched)
            if path is None or len(watched) == WATCHED_LIMIT or (state := _exhausted_too_early(path)) is None:
                return path
            watched |= {state}

    def _search(self, bit: int, goal: Node, last: Edge | None, watched: frozenset[str]) -> tuple[Edge, ...] | None:
        """Return a shortest path. `watched`: states that are only exhausted behind a visit on the path."""
        start = (self.start, bool(self._given & bit), watched & {self.start.state})
        paths: dict[tuple[Node, bool, frozenset[str]], tuple[Edge, ...]] = {start: ()}
        waiting = deque(paths)
        while waiting:
            node, exists, visited = here = waiting.popleft()
            if node == goal and last is None and not exists:
                return paths[here]
            for edge in self.edges(node):
                exists_then = bool(self.after(node, edge, bit if exists else 0) & bit)
                path = (*paths[here], edge)
                if node == goal and edge == last and not exists_then:
                    return path
                for target in self.targets(node, edge):
                    if target.is_exhausted and target.state in watched - visited:
                        continue
                    then = (target, exists_then, visited if target.is_exhausted else visited | watched & {target.state})
                    if then not in paths:
                        paths[then] = path
                        waiting.append(then)
        return None


def _exhausted_too_early(path: tuple[Edge, ...]) -> str | None:
    """Return the first state on a path whose visits are used up before it was visited."""
    visited = set()
    for edge in path:
        if edge.event == EXHAUSTED and edge.source not in visited:
            return edge.source
        if edge.event != EXHAUSTED:
            visited.add(edge.source)
    return None
