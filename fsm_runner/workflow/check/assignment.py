"""The rule that a value is assigned on every path to its use."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.workflow.check.context import Context, Use
from fsm_runner.workflow.check.fields import assigned
from fsm_runner.workflow.check.flow import Fact, Node
from fsm_runner.workflow.check.graph import INTERRUPTED, Edge, path_text
from fsm_runner.workflow.value_types import path_text as value_text

FINDINGS_LIMIT = 50
"""Each takes a search of the whole graph."""


def value_is_assigned_on_every_path(context: Context) -> Iterator[Problem]:
    if context.start not in context.states:
        return
    flow = context.flow
    found = 0
    for use in context.uses:
        for node in _nodes(context, use):
            if use.path[0] in ("params", "run", "item", "index") or node not in flow.existing:
                continue
            name, field = str(use.path[0]), str(use.path[1]) if len(use.path) > 1 else "ok"
            bit = flow.mask((name, field))
            facts = flow.existing[node]
            if use.edge is not None:
                facts = flow.after(node, use.edge, facts)
            if not bit or not facts & bit:
                found += 1
                path = flow.path_without(bit, node, use.edge) if found <= FINDINGS_LIMIT else None
                if path is not None or found > FINDINGS_LIMIT:
                    yield Problem(use.place, _message(context, use, (name, field), path))
                    break


def _nodes(context: Context, use: Use) -> list[Node]:
    """Return the nodes in which the value must exist. The result of a run needs it in each final state it can have."""
    if use.edge is not None:
        return [Node(use.edge.source, use.edge.event == "exhausted")]
    if use.state is not None:
        return [Node(use.state)]
    return [Node(name) for name, state in context.states.items() if state.final and state.outcome == "completed"]


def _message(context: Context, use: Use, fact: Fact, path: tuple[Edge, ...] | None) -> str:
    name, field = fact
    text = value_text(use.path[:2])
    if path is None:
        return f"{text} does not exist on every path to this place"
    end = path[-1].target if path else context.start
    if use.edge is not None and path:
        path, end = path[:-1], use.edge.text
    message = f"{text} does not exist on the path {path_text(path, end)}"
    for edge in reversed((*path, use.edge) if use.edge is not None else path):
        state = context.states[edge.source]
        is_assigned = state.activity is not None and edge.event not in (INTERRUPTED, "exhausted")
        if is_assigned and context.definition.value_of(edge.source) == name:
            fields = ", ".join(sorted(assigned(state, edge.event)))
            remedy = f"lead on_{edge.event} elsewhere"
            if edge is use.edge:
                remedy = "name one of these"
            elif edge.event == "done":
                remedy = f"let {edge.source} assign another name"
            return f"{message}: after on_{edge.event} of {edge.source}, {name} only has {fields}; {remedy}"
    assigning = [it for it, state in context.definition.states.items() if _assigns(context, it, name, field)]
    if assigning:
        return f"{message}: only {_list(assigning)} can assign it; lead the path through such a state before"
    return f"{message}: no state assigns it"


def _assigns(context: Context, state: str, name: str, field: str) -> bool:
    if context.definition.states[state].activity is None or context.definition.value_of(state) != name:
        return False
    return any(field in assigned(context.states[state], edge.event) for edge in context.graph.edges[state])


def _list(names: list[str]) -> str:
    return " or ".join(names) if len(names) < 4 else f"{', '.join(names[:3])} and others"
