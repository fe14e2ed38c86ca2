"""Draws and exports machines, in each of the formats that `FORMATS` names."""

from collections.abc import Callable
from typing import NamedTuple

from fsm_runner.machine.render.dot import dot
from fsm_runner.machine.render.layout import LayoutError, lay_out
from fsm_runner.machine.render.markdown import markdown, tables
from fsm_runner.machine.render.mermaid import mermaid
from fsm_runner.machine.render.plantuml import plantuml
from fsm_runner.machine.render.scxml import scxml
from fsm_runner.machine.render.svg import svg
from fsm_runner.machine.render.xstate import xstate
from fsm_runner.machine.spec import Spec

__all__ = ["FORMATS", "Format", "LayoutError", "render"]


class Format(NamedTuple):
    write: Callable[[Spec, bool], str | bytes]
    """Takes the spec, and `brief` for a brief drawing."""
    can_be_brief: bool = True
    fence: str | None = None
    """The language of the code block that holds it in a document; None if a document cannot hold it."""


FORMATS = {
    "mermaid": Format(lambda spec, brief: mermaid(spec, brief=brief), fence="mermaid"),
    "markdown": Format(lambda spec, brief: markdown(spec, brief=brief), fence=""),
    "tables": Format(lambda spec, _: tables(spec), can_be_brief=False, fence=""),
    "svg": Format(lambda spec, brief: svg(spec, brief=brief)),
    "png": Format(lambda spec, brief: lay_out(dot(spec, brief=brief), "png", "-Gdpi=144")),
    "dot": Format(lambda spec, brief: dot(spec, brief=brief), fence="dot"),
    "plantuml": Format(lambda spec, brief: plantuml(spec, brief=brief), fence="plantuml"),
    "scxml": Format(lambda spec, _: scxml(spec), can_be_brief=False, fence="xml"),
    "xstate": Format(lambda spec, _: xstate(spec), can_be_brief=False, fence="json"),
}


def render(spec: Spec, form: str, *, brief: bool = False) -> bytes:
    """Return the content of a file; all formats but `png` are UTF-8 text.

    Raises `LayoutError` if `svg` or `png` cannot be made.
    """
    content = FORMATS[form].write(spec, brief)
    return content.encode() if isinstance(content, str) else content
