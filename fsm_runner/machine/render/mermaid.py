"""Draws a machine as a Mermaid state diagram, for Markdown viewers."""

import textwrap
from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Diagram, Edge, Node, Tone, diagram, facts, one_line
from fsm_runner.machine.spec import Spec

FAILURE_MARK = "✗"
"""Mermaid cannot style the arrows of a state diagram, so a failure is marked in its label."""

_TEXT_WIDTH = 34
_BLANK = "#160;"
"""A space that does not break. Mermaid refuses a label with nothing in it."""
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _.,()")
_STYLES = {
    Tone.WORKING: "fill:#eef4ff,stroke:#3b6fb6,color:#10233f",
    Tone.WAITING: "fill:#f7f7f7,stroke:#8a8a8a,color:#222222",
    Tone.GOOD: "fill:#e3f6e5,stroke:#2e8b45,color:#0f3a1a",
    Tone.BAD: "fill:#fde8e8,stroke:#c0392b,color:#4a1010",
    Tone.ENDED: "fill:#fff4d6,stroke:#b8860b,color:#4a3605",
}


def mermaid(spec: Spec) -> str:
    """The text of a `stateDiagram-v2`."""
    lines = ["stateDiagram-v2", *(f"    {line}" for line in _body(diagram(spec)))]
    return "\n".join(lines) + "\n"


def _body(drawing: Diagram) -> Iterator[str]:
    for tone in Tone:
        yield f"classDef {tone.value} {_STYLES[tone]}"
    for node in drawing.nodes:
        yield f'state "{_escaped(one_line(node.name))}" as {node.id}'
        for line in _description(node):
            yield f"{node.id}: {_escaped(line)}"
    for node in drawing.nodes:
        if node.is_initial:
            yield f"[*] --> {node.id}"
    for edge in drawing.edges:
        yield f"{edge.source.id} --> {edge.target.id}: {_edge_label(edge)}"
    for node in drawing.nodes:
        if node.state.final:
            yield f"{node.id} --> [*]"
    for node in drawing.nodes:
        yield f"class {node.id} {node.tone.value}"


def _description(node: Node) -> Iterator[str]:
    for text in (one_line(node.state.doc), *map(one_line, facts(node.state))):
        yield from textwrap.wrap(text, _TEXT_WIDTH)


def _edge_label(edge: Edge) -> str:
    # With a space that breaks, a long name would leave its mark on a line of its own.
    return "<br/>".join(f"{FAILURE_MARK}{_BLANK}" * label.is_failure + _escaped(str(label)) for label in edge.labels)


def _escaped(text: str) -> str:
    """Mermaid's own entities for all that could mean something to it, to HTML or to Markdown; never empty."""
    return "".join(char if char in _PLAIN else f"#{ord(char)};" for char in text) or _BLANK
