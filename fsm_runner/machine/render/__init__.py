"""Draws machines, in each of the formats that `FORMATS` names."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fsm_runner.machine.render.dot import dot
from fsm_runner.machine.render.graphviz import GraphvizError, GraphvizFailed, GraphvizMissing, png, svg
from fsm_runner.machine.render.markdown import markdown
from fsm_runner.machine.render.mermaid import mermaid
from fsm_runner.machine.spec import Spec

__all__ = ["FORMATS", "GraphvizError", "GraphvizFailed", "GraphvizMissing", "render"]


def _utf8(renderer: Callable[[Spec], str]) -> Callable[[Spec], bytes]:
    return lambda spec: renderer(spec).encode()


FORMATS: Mapping[str, Callable[[Spec], bytes]] = MappingProxyType(
    {"mermaid": _utf8(mermaid), "dot": _utf8(dot), "svg": svg, "png": png, "markdown": _utf8(markdown)}
)


def render(spec: Spec, form: str) -> bytes:
    """The drawing as the bytes of a file; all formats but `png` are UTF-8 text.

    Raises `GraphvizError` when `svg` or `png` cannot be made.
    """
    return FORMATS[form](spec)
