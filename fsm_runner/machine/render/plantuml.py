"""Draws a machine in PlantUML's language."""

from collections.abc import Iterator

from fsm_runner.machine.render.diagram import Box, Diagram, Kind, diagram
from fsm_runner.machine.render.palette import LIGHT, Shade
from fsm_runner.machine.render.text import with_entities
from fsm_runner.machine.spec import Spec

_STYLES = {Kind.MAIN: ",thickness=3", Kind.OTHER: "", Kind.FAILURE: ",dashed"}


def plantuml(spec: Spec, *, brief: bool = False) -> str:
    """Return the text from `@startuml` to `@enduml`."""
    drawing = diagram(spec, brief=brief)
    lines = ("@startuml", "hide empty description", *_states(drawing.root), *_arrows(drawing), "@enduml", "")
    return "\n".join(lines)


def _states(box: Box) -> Iterator[str]:
    for member in box.members:
        shade = LIGHT.box if isinstance(member, Box) else LIGHT.tones[member.tone]
        declaration = f'state "{_text(member.name)}" as {member.id} {_colours(shade)}'
        if isinstance(member, Box):
            yield f"{declaration} {{"
            yield from (f"    {line}" for line in _states(member))
            yield "}"
        else:
            yield declaration


def _arrows(drawing: Diagram) -> Iterator[str]:
    yield f"[*] --> {drawing.initial.id}"
    for arrow in drawing.arrows:
        style = f"[{LIGHT.arrows[arrow.kind]}{_STYLES[arrow.kind]}]"
        text = "\\n".join(_text(str(label)) for label in arrow.labels)
        yield f"{arrow.source} -{style}-> {arrow.target} : {text}"


def _colours(shade: Shade) -> str:
    fill, line, text = (colour.removeprefix("#") for colour in shade)
    return f"#{fill};line:{line};text:{text}"


def _text(text: str) -> str:
    return with_entities(text, "<U+{:04X}>") or "<U+00A0>"
