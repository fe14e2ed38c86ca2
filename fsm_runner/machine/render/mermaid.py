"""Draws a machine as a Mermaid state diagram."""

from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Box, Diagram, Node, Tone, diagram, nested_lines
from fsm_runner.machine.render.palette import LIGHT
from fsm_runner.machine.render.text import with_entities
from fsm_runner.machine.spec import Spec


def mermaid(spec: Spec, *, brief: bool = False) -> str:
    """Return the text of a `stateDiagram-v2`."""
    drawing = diagram(spec, brief=brief)
    # All states come before the arrows: Mermaid puts a state into the box that names it first.
    body = (*nested_lines(drawing.root, _declaration), *_arrows(drawing), *_styles(drawing))
    return "\n".join(("stateDiagram-v2", *(f"    {line}" for line in body), ""))


def _declaration(member: Node | Box) -> str:
    if member.id != member.name:
        return f'state "{_text(member.name)}" as {member.id}'
    return member.id if isinstance(member, Node) else f"state {member.id}"


def _arrows(drawing: Diagram) -> Iterator[str]:
    yield f"[*] --> {drawing.initial.id}"
    for arrow in drawing.arrows:
        yield f"{arrow.source} --> {arrow.target}: {'<br/>'.join(_text(str(label)) for label in arrow.labels)}"


def _styles(drawing: Diagram) -> Iterator[str]:
    ids_by_tone = {tone: ids for tone in Tone if (ids := [node.id for node in drawing.nodes if node.tone is tone])}
    for tone in ids_by_tone:
        fill, line, text = LIGHT.tones[tone]
        yield f"classDef {tone} fill:{fill},stroke:{line},color:{text}"
    yield from (f"class {', '.join(ids)} {tone}" for tone, ids in ids_by_tone.items())
    # Mermaid cannot style the arrows of a state diagram, so the main path shows in its states.
    if main := [node.id for node in drawing.nodes if node.is_main]:
        yield "classDef main stroke-width:3px"
        yield f"class {', '.join(main)} main"


def _text(text: str) -> str:
    # Mermaid refuses an empty text.
    return with_entities(text, "#{};") or "#160;"
