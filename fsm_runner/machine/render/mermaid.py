"""Draws a machine as a Mermaid state diagram."""

from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Arrow, Box, Diagram, Node, Tone, diagram
from fsm_runner.machine.render.palette import LIGHT
from fsm_runner.machine.render.text import with_entities
from fsm_runner.machine.spec import Spec

_INDENT = "    "


def mermaid(spec: Spec, *, brief: bool = False) -> str:
    """Return the text of a `stateDiagram-v2`."""
    drawing = diagram(spec, brief=brief)
    lines = ["stateDiagram-v2", *(_INDENT + line for line in (*_contents(drawing, drawing.root), *_styles(drawing)))]
    return "\n".join(lines) + "\n"


def _contents(drawing: Diagram, box: Box) -> Iterator[str]:
    """Yield the members of a box, and the arrows that belong there."""
    if drawing.initial in box.members:
        yield f"[*] --> {drawing.initial.id}"
    arrows = [arrow for arrow in drawing.arrows if _home(drawing, arrow) == box]
    joined = {drawing.initial.id, *(end for arrow in arrows for end in (arrow.source, arrow.target))}
    for member in box.members:
        if isinstance(member, Box):
            yield f"{_declaration(member)} {{"
            yield from (_INDENT + line for line in _contents(drawing, member))
            yield "}"
        elif member.id != member.name:
            yield _declaration(member)
        elif member.id not in joined:
            yield member.id
    for arrow in arrows:
        text = "<br/>".join(_text(str(label)) for label in arrow.labels)
        yield f"{arrow.source} --> {arrow.target}: {text}"


def _home(drawing: Diagram, arrow: Arrow) -> Box:
    """Return the box that has both ends as members. If there is none, Mermaid would move an end to another box."""
    ends = {arrow.source, arrow.target}
    return next((box for box in drawing.boxes if ends <= {member.id for member in box.members}), drawing.root)


def _declaration(item: Node | Box) -> str:
    if item.id == item.name:
        return f"state {item.id}"
    return f'state "{_text(item.name)}" as {item.id}'


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
