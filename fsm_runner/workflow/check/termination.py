"""The rules that a workflow ends: each activity has a time limit, and each cycle is cut by `max_visits`."""

from collections import deque
from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.check.flow import Flow, Node
from fsm_runner.workflow.check.graph import Edge
from fsm_runner.workflow.definition import Approval, Wait


def activity_has_a_time_limit(context: Context) -> Iterator[Problem]:
    if context.definition.budget.max_wall_s is not None:
        return
    for name, state in context.definition.states.items():
        # An approval needs `timeout_s` anyway, and a wait has an end.
        if isinstance(state.activity, Approval | Wait) or state.activity is None or state.timeout_s is not None:
            continue
        yield Problem(
            ("states", name),
            "has no time limit: give it `timeout_s`, or the whole workflow `budget = { max_wall_s = … }`",
        )


def cycle_is_cut_by_max_visits(context: Context) -> Iterator[Problem]:
    """A bounded state is visited finitely often, so an endless run only has unbounded and exhausted states at last."""
    if context.definition.initial not in context.states:
        return
    flow = context.flow
    onward = {
        node: [
            (edge, target) for edge in flow.edges(node) for target in flow.targets(node, edge) if _lasts(flow, target)
        ]
        for node in flow.existing
        if _lasts(flow, node)
    }
    order = {name: number for number, name in enumerate(context.states)}
    for component in _components(onward):
        first = min(component, key=lambda node: (order[node.state], node.is_exhausted))
        cycle = _cycle(onward, component, first)
        if cycle:
            place = ("states", first.state, "on_exhausted") if first.is_exhausted else ("states", first.state)
            path = " → ".join([*(edge.text for edge in cycle), first.state])
            yield Problem(place, f"may never end: {path}{_remedy(context, cycle)}")


def _lasts(flow: Flow, node: Node) -> bool:
    return node.is_exhausted or node.state not in flow.graph.exhausted


def _remedy(context: Context, cycle: list[Edge]) -> str:
    exhausted = [edge.source for edge in cycle if edge.event == "exhausted"]
    acting = [edge.source for edge in cycle if context.states[edge.source].activity and edge.source not in exhausted]
    if acting:
        why = f", and the visits of {exhausted[0]} that are used up do not stop it" if exhausted else ""
        return f"{why}: give {acting[0]} `max_visits`, or lead out of the cycle"
    if exhausted:
        return f": lead on_exhausted of {exhausted[0]} to a state outside the cycle"
    return ": no state of this cycle has an activity; lead out of it"


def _components(onward: dict[Node, list[tuple[Edge, Node]]]) -> Iterator[set[Node]]:
    """Yield the strongly connected components (Tarjan's algorithm, without recursion)."""
    numbers: dict[Node, int] = {}
    lowest: dict[Node, int] = {}
    stack: list[Node] = []
    on_stack: set[Node] = set()
    for root in onward:
        if root in numbers:
            continue
        work = [(root, iter(onward[root]))]
        numbers[root] = lowest[root] = len(numbers)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, edges = work[-1]
            for _, target in edges:
                if target not in numbers:
                    numbers[target] = lowest[target] = len(numbers)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(onward[target])))
                    break
                if target in on_stack:
                    lowest[node] = min(lowest[node], numbers[target])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == numbers[node]:
                    at = stack.index(node)
                    component = set(stack[at:])
                    del stack[at:]
                    on_stack -= component
                    yield component


def _cycle(onward: dict[Node, list[tuple[Edge, Node]]], component: set[Node], first: Node) -> list[Edge]:
    """Return a shortest cycle through a node of a component; empty if there is none."""
    paths: dict[Node, list[Edge]] = {}
    waiting = deque([first])
    while waiting:
        node = waiting.popleft()
        for edge, target in onward[node]:
            if target == first:
                return [*paths.get(node, []), edge]
            if target in component and target not in paths:
                paths[target] = [*paths.get(node, []), edge]
                waiting.append(target)
    return []
