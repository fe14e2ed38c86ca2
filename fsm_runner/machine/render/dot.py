"""Draws a machine in Graphviz's language.

All sizes are written down, so the layout does not depend on the fonts of the computer that makes it.
"""

import unicodedata
from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Arrow, Box, Diagram, Kind, Label, Node, diagram
from fsm_runner.machine.render.palette import LIGHT, Shade
from fsm_runner.machine.render.text import limits, one_line, xml_escaped
from fsm_runner.machine.spec import Spec

FONT = "Helvetica,Arial,sans-serif"
STATE_FONT_PX, STATE_LINE_PX = 13, 17
LABEL_FONT_PX, LABEL_LINE_PX = 12, 15
_LABEL_CHARACTERS = 26
"""A label that is longer continues on the next line."""

_HEAD = (
    "graph [compound=true, newrank=true, nodesep=0.15, ranksep=0.3, mclimit=10, searchsize=100]",
    f'graph [bgcolor="{LIGHT.background}", fontname="{FONT}", fontsize={STATE_FONT_PX}]',
    f'node [shape=box, style="rounded,filled", fixedsize=true, fontname="{FONT}", fontsize={STATE_FONT_PX}]',
    f'edge [arrowsize=0.8, fontname="{FONT}", fontsize={LABEL_FONT_PX}]',
    f'start [shape=circle, fillcolor="{LIGHT.arrows[Kind.MAIN]}", width=0.17, height=0.17, label=""]',
)
_ARROW_STYLES = {
    Kind.MAIN: "penwidth=2.5, arrowsize=1, weight=20",
    Kind.OTHER: "weight=2",
    Kind.FAILURE: "style=dashed, weight=2",
}


def dot(spec: Spec, *, brief: bool = False) -> str:
    """Return the text of a `digraph`."""
    lines = (*_HEAD, *_body(diagram(spec, brief=brief)))
    return "\n".join(("digraph machine {", *(f"    {line}" for line in lines), "}", ""))


def node_lines(node: Node) -> list[str]:
    """Return the text inside a state: its name, and its limits if it has any."""
    return [line for line in (one_line(node.name), one_line(limits(node.state))) if line]


def label_lines(label: Label) -> list[str]:
    """Return the text of a label; guard and outcome have lines of their own if one line is too short."""
    text = str(label)
    if len(text) <= _LABEL_CHARACTERS:
        return [text]
    first = str(label._replace(guard=None, decides=None))
    return [first, text.removeprefix(first).strip()] if first != text else [text]


def _body(drawing: Diagram) -> Iterator[str]:
    anchored = {arrow.source for arrow in drawing.arrows}
    yield from _members(drawing.root, anchored)
    yield f"start -> {drawing.initial.id} [{_ARROW_STYLES[drawing.start_kind]}, id=start]"
    boxes = {box.id for box in drawing.boxes}
    for number, arrow in enumerate(drawing.arrows):
        yield f"{_arrow(arrow, starts_at_box=arrow.source in boxes)}, id=arrow{number}]"
    if final := " ".join(node.id for node in drawing.nodes if node.state.final):
        yield f"{{ rank=sink; {final} }}"


def _members(box: Box, anchored: set[str]) -> Iterator[str]:
    for member in box.members:
        if isinstance(member, Node):
            yield _node(member)
            continue
        yield f"subgraph cluster_{member.id} {{"
        yield f"    graph [label={_table([one_line(member.name)], STATE_FONT_PX, STATE_LINE_PX)}, labeljust=l]"
        yield f'    graph [margin=10, style="rounded,filled", {_colours(LIGHT.box)}]'
        yield from (f"    {line}" for line in _members(member, anchored))
        if member.id in anchored:
            # The arrows of a box start at an invisible node below all members, so that they leave the box downwards.
            yield f'    {_anchor_id(member.id)} [shape=point, style=invis, width=0.01, height=0.01, label=""]'
            for node in (item for item in member.walk() if isinstance(item, Node)):
                yield f"    {node.id} -> {_anchor_id(member.id)} [style=invis, weight={3 if node.is_main else 0}]"
        yield "}"


def _anchor_id(box: str) -> str:
    return f'"below {box}"'


def _node(node: Node) -> str:
    lines = node_lines(node)
    width = max((_text_px(line, STATE_FONT_PX) for line in lines), default=0) + 24
    height = STATE_LINE_PX * max(len(lines), 1) + 12
    size = f"width={width / 72:.3f}, height={height / 72:.3f}"  # in inches
    label = "<br/>".join(_escaped(line) for line in lines) or " "
    return f"{node.id} [label=<{label}>, {size}, {_colours(LIGHT.tones[node.tone])}]"


def _colours(shade: Shade) -> str:
    return f'fillcolor="{shade.fill}", color="{shade.line}", fontcolor="{shade.text}"'


def _arrow(arrow: Arrow, *, starts_at_box: bool) -> str:
    colour = LIGHT.arrows[arrow.kind]
    lines = [line for label in arrow.labels for line in label_lines(label)]
    # Labels on the main path are bold, so they are wider.
    label = f"label={_table(lines, LABEL_FONT_PX * (1.1 if arrow.kind is Kind.MAIN else 1), LABEL_LINE_PX)}"
    style = f'color="{colour}", fontcolor="{colour}", {_ARROW_STYLES[arrow.kind]}'
    start, tail = (_anchor_id(arrow.source), f"ltail=cluster_{arrow.source}, ") if starts_at_box else (arrow.source, "")
    return f"{start} -> {arrow.target} [{tail}{label}, {style}"


def _table(lines: list[str], font_px: float, line_px: int) -> str:
    """Return an HTML-like label with a size of its own."""
    width = max(_text_px(line, font_px) for line in lines) + 14
    rows = "".join(f"<tr><td>{_escaped(line) or ' '}</td></tr>" for line in lines)
    size = f'fixedsize="true" width="{width:.0f}" height="{line_px * len(lines)}"'
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="0" {size}>{rows}</table>>'


def _text_px(text: str, font_px: float) -> float:
    """Return the approximate width of a text in Helvetica."""
    return sum(_em(char) for char in text) * font_px


def _em(char: str) -> float:
    if not char.isascii():
        return 1.0 if unicodedata.east_asian_width(char) in "WF" else 0.75
    if char in " !'(),-./:;I[]fijlrt|":
        return 0.3
    return 0.86 if char in "%@MWmw" else 0.7 if char.isupper() else 0.56


def _escaped(text: str) -> str:
    # A text of nothing but `]` is a syntax error to Graphviz. A backslash is no escape in its HTML-like labels.
    return xml_escaped(text).replace("]", "&#93;")
