"""Draws a machine as a Mermaid state diagram."""

from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Box, Diagram, Tone, diagram
from fsm_runner.machine.render.palette import LIGHT
from fsm_runner.machine.render.text import with_entities
from fsm_runner.machine.spec import Spec

_INDENT = "    "


def mermaid(spec: Spec, *, brief: bool = False) -> str:
    """Return the text of a `stateDiagram-v2`."""
    drawing = diagram(spec, brief=brief)
    body = (*_states(drawing.root), *_arrows(drawing), *_styles(drawing))
    return "\n".join(("stateDiagram-v2", *(_INDENT + line for line in body), ""))


def _states(box: Box) -> Iterator[str]:
    """Yield the members of a box, before all arrows: Mermaid puts a state into the box that names it first."""
    for member in box.members:
        name = member.id if member.id == member.name else f'"{_text(member.name)}" as {member.id}'
        if isinstance(member, Box):
            yield f"state {name} {{"
            yield from (_INDENT + line for line in _states(member))
            yield "}"
        else:
            yield name if name == member.id else f"state {name}"


def _arrows(drawing: Diagram) -> Iterator[str]:
    yield f"[*] --> {drawing.initial.id}"
    for arrow in drawing.arrows:
        yield f"{arrow.source} --> {arrow.target}: {'<br/>'.join(_text(str(label)) for label in arrow.labels)}"


def _styles(drawing: Diagram) -> Iterator[str]:
    classes = {tone: [node.id for node in drawing.nodes if node.tone is tone] for tone in Tone}
    for tone, (fill, line, text) in LIGHT.tones.items():
        if classes[tone]:
            yield f"classDef {tone} fill:{fill},stroke:{line},color:{text}"
    for tone, ids in classes.items():
        if ids:
            yield f"class {', '.join(ids)} {tone}"
    # Mermaid cannot style the arrows of a state diagram, so the main path shows in its states.
    if main := [node.id for node in drawing.nodes if node.is_main]:
        yield "classDef main stroke-width:3px"
        yield f"class {', '.join(main)} main"


def _text(text: str) -> str:
    # Mermaid refuses an empty text.
    return with_entities(text, "#{};") or "#160;"
