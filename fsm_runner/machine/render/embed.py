"""Keeps the drawings in a document current.

A document holds a drawing between two lines of its own: `<!-- machine: NAME format: FORMAT -->` and
`<!-- /machine -->`. NAME is that of the machine, FORMAT is `markdown`, `mermaid` or `dot`.
"""

import html
from collections.abc import Callable
from typing import NamedTuple

from fsm_runner.machine.render.diagram import one_line
from fsm_runner.machine.render.dot import dot
from fsm_runner.machine.render.markdown import markdown
from fsm_runner.machine.render.mermaid import mermaid
from fsm_runner.machine.spec import Spec

END = "<!-- /machine -->"

_PARTS: dict[str, Callable[[Spec], str]] = {
    "markdown": markdown,
    "mermaid": lambda spec: f"```mermaid\n{mermaid(spec)}```\n",
    "dot": lambda spec: f"```dot\n{dot(spec)}```\n",
}


class EmbedError(Exception):
    """The marker lines of a document make no sense. The text names the line."""


class _Part(NamedTuple):
    start: int
    """The index of the line with the first marker."""
    end: int
    form: str


def marker(name: str, form: str) -> str:
    """The line before the drawing of a machine."""
    # A comment of HTML ends at the first "--".
    shown = html.escape(one_line(name), quote=False).replace("-", "&#45;") if "--" in name else one_line(name)
    return f"<!-- machine: {shown.replace('>', '&gt;')} format: {form} -->"


def renewed(document: str, spec: Spec) -> str | None:
    """The document with each drawing of this machine as it would be now; None where it has none.

    Raises `EmbedError` when a drawing has no last line.
    """
    lines = document.splitlines(keepends=True)
    parts = _parts(lines, spec.name)
    for part in reversed(parts):
        lines[part.start + 1 : part.end] = ["\n", *_PARTS[part.form](spec).splitlines(keepends=True), "\n"]
    return "".join(lines) if parts else None


def _parts(lines: list[str], name: str) -> list[_Part]:
    markers = {marker(name, form): form for form in _PARTS}
    found = []
    for start, line in enumerate(lines):
        if (form := markers.get(line.strip())) is not None:
            found.append(_Part(start, _end(lines, start), form))
    return found


def _end(lines: list[str], start: int) -> int:
    for index in range(start + 1, len(lines)):
        text = lines[index].strip()
        if text == END:
            return index
        if text.startswith("<!-- machine: "):
            break
    raise EmbedError(f"line {start + 1}: the drawing that begins here has no line {END} behind it")
