"""Draws a machine in Graphviz's language, to be laid out by `dot`."""

import html
import textwrap
from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Diagram, Edge, Label, Node, Tone, diagram, facts, one_line
from fsm_runner.machine.spec import Spec

_TEXT_WIDTH = 38
_BAD = "#c0392b"
_COLOURS = {
    Tone.WORKING: ("#eef4ff", "#3b6fb6"),
    Tone.WAITING: ("#f7f7f7", "#8a8a8a"),
    Tone.GOOD: ("#e3f6e5", "#2e8b45"),
    Tone.BAD: ("#fde8e8", _BAD),
    Tone.ENDED: ("#fff4d6", "#b8860b"),
}
"""For each tone, how a state is filled and how it is outlined."""

_HEAD = (
    'bgcolor="white"',
    "nodesep=0.5",
    "ranksep=0.6",
    'node [fontname="Helvetica,Arial,sans-serif", fontsize=11, shape=box, style="rounded,filled", margin="0.14,0.09"]',
    'edge [fontname="Helvetica,Arial,sans-serif", fontsize=10, color="#4a5568", fontcolor="#2d3748", arrowsize=0.8]',
    'start [shape=circle, style=filled, fillcolor="#222222", color="#222222", width=0.18, label="", fixedsize=true]',
)


def dot(spec: Spec) -> str:
    """The text of a `digraph`: failures are red and dashed, final states have two outlines."""
    lines = ["digraph machine {", *(f"    {line}" for line in (*_HEAD, *_body(diagram(spec)))), "}"]
    return "\n".join(lines) + "\n"


def _body(drawing: Diagram) -> Iterator[str]:
    for node in drawing.nodes:
        fill, line = _COLOURS[node.tone]
        outlines = ", peripheries=2" if node.state.final else ""
        yield f'{node.id} [label=<{_node_label(node)}>, fillcolor="{fill}", color="{line}"{outlines}]'
    for node in drawing.nodes:
        if node.is_initial:
            yield f"start -> {node.id}"
    for edge in drawing.edges:
        yield from _arrows(edge)


def _node_label(node: Node) -> str:
    lines = [f"<b>{_escaped(one_line(node.name) or ' ')}</b>"]
    lines += [f"<i>{_escaped(line)}</i>" for line in textwrap.wrap(one_line(node.state.doc), _TEXT_WIDTH)]
    for fact in facts(node.state):
        lines += [_escaped(line) for line in textwrap.wrap(one_line(fact), _TEXT_WIDTH)]
    return "<br/>".join(lines)


def _arrows(edge: Edge) -> Iterator[str]:
    """One for what goes well and one for what fails, where there is both."""
    ends = f"{edge.source.id} -> {edge.target.id}"
    if good := [label for label in edge.labels if not label.is_failure]:
        yield f"{ends} [label=<{_edge_label(good)}>]"
    if failed := [label for label in edge.labels if label.is_failure]:
        style = f'style=dashed, color="{_BAD}", fontcolor="{_BAD}"'
        yield f"{ends} [label=<{_edge_label(failed)}>, {style}]"


def _edge_label(labels: list[Label]) -> str:
    return "".join(f'{_escaped(str(label))}<br align="left"/>' for label in labels)


def _escaped(text: str) -> str:
    # A backslash is no escape in Graphviz's HTML-like labels, but a character beyond XML's range is an error.
    # A text of nothing but `]` is a syntax error to Graphviz.
    return html.escape("".join(char if _is_xml(char) else "\ufffd" for char in text)).replace("]", "&#93;")


def _is_xml(char: str) -> bool:
    return char >= " " and not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff"
