"""Keeps the drawings in a document current.

A document holds a drawing between two lines of its own: `<!-- machine: NAME format: FORMAT -->` and
`<!-- /machine -->`. NAME is that of the machine; FORMAT is a text format, and ` brief` may follow it.
"""

import html
from typing import NamedTuple

from fsm_runner.machine.render import FORMATS, render
from fsm_runner.machine.render.text import one_line
from fsm_runner.machine.spec import Spec

END = "<!-- /machine -->"


class EmbedError(Exception):
    """A drawing in a document has no end. The text names the line."""


class _Part(NamedTuple):
    start: int
    """The index of the line with the first marker."""
    end: int
    form: str
    brief: bool


def marker(name: str, form: str, *, brief: bool = False) -> str:
    """Return the line before the drawing of a machine."""
    # A comment of HTML ends at the first "--".
    shown = html.escape(one_line(name), quote=False).replace("-", "&#45;") if "--" in name else one_line(name)
    return f"<!-- machine: {shown.replace('>', '&gt;')} format: {form}{' brief' * brief} -->"


def renew(document: str, spec: Spec) -> str | None:
    """Return the document with each drawing of this machine as it would be now; None if it has none.

    Raises `EmbedError` if a drawing has no last line.
    """
    lines = document.splitlines(keepends=True)
    parts = _parts(lines, spec.name)
    for part in reversed(parts):
        text = render(spec, part.form, brief=part.brief).decode()
        if fence := FORMATS[part.form].fence:
            text = f"```{fence}\n{text}```\n"
        lines[part.start + 1 : part.end] = ["\n", *text.splitlines(keepends=True), "\n"]
    return "".join(lines) if parts else None


def _parts(lines: list[str], name: str) -> list[_Part]:
    markers = {
        marker(name, form, brief=brief): (form, brief)
        for form, properties in FORMATS.items()
        if properties.fence is not None
        for brief in ((False, True) if properties.can_be_brief else (False,))
    }
    found = []
    for start, line in enumerate(lines):
        if (marked := markers.get(line.strip())) is not None:
            found.append(_Part(start, _end(lines, start), *marked))
    return found


def _end(lines: list[str], start: int) -> int:
    for index in range(start + 1, len(lines)):
        text = lines[index].strip()
        if text == END:
            return index
        if text.startswith("<!-- machine: "):
            break
    raise EmbedError(f"line {start + 1}: the drawing that begins here has no line {END} behind it")
