"""Draws a machine in PlantUML's language."""

from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Box, Diagram, Kind, Node, diagram, nested_lines
from fsm_runner.machine.render.palette import LIGHT
from fsm_runner.machine.render.text import with_entities
from fsm_runner.machine.spec import Spec

_STYLES = {Kind.MAIN: ",thickness=3", Kind.OTHER: "", Kind.FAILURE: ",dashed"}


def plantuml(spec: Spec, *, brief: bool = False) -> str:
    """Return the text from `@startuml` to `@enduml`."""
    drawing = diagram(spec, brief=brief)
    states = nested_lines(drawing.root, _declaration)
    return "\n".join(("@startuml", "hide empty description", *states, *_arrows(drawing), "@enduml", ""))


def _declaration(member: Node | Box) -> str:
    shade = LIGHT.box if isinstance(member, Box) else LIGHT.tones[member.tone]
    fill, line, text = (colour.removeprefix("#") for colour in shade)
    return f'state "{_text(member.name)}" as {member.id} #{fill};line:{line};text:{text}'


def _arrows(drawing: Diagram) -> Iterator[str]:
    yield f"[*] --> {drawing.initial.id}"
    for arrow in drawing.arrows:
        style = f"[{LIGHT.arrows[arrow.kind]}{_STYLES[arrow.kind]}]"
        text = "\\n".join(_text(str(label)) for label in arrow.labels)
        yield f"{arrow.source} -{style}-> {arrow.target} : {text}"


def _text(text: str) -> str:
    return with_entities(text, "<U+{:04X}>") or "<U+00A0>"
