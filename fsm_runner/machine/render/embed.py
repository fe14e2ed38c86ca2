"""Keeps the drawings in a document current.

A document holds a drawing between two lines of its own: `<!-- machine: NAME format: FORMAT -->` and
`<!-- /machine -->`. NAME is that of the machine; FORMAT is a text format, and ` brief` may follow it.
"""

import html

from fsm_runner.machine.render import FORMATS, render
from fsm_runner.machine.render.text import one_line
from fsm_runner.machine.spec import Spec

END = "<!-- /machine -->"


class EmbedError(Exception):
    """A drawing in a document has no end. The text names the line."""


def marker(name: str, form: str, *, brief: bool = False) -> str:
    """Return the line before the drawing of a machine."""
    # A comment of HTML ends at the first "--".
    shown = html.escape(one_line(name), quote=False).replace("-", "&#45;") if "--" in name else one_line(name)
    return f"<!-- machine: {shown.replace('>', '&gt;')} format: {form}{' brief' * brief} -->"


def renew(document: str, spec: Spec) -> str | None:
    """Return the document with each drawing of this machine as it would be now; None if it has none.

    Raises `EmbedError` if a drawing has no last line.
    """
    markers = {
        marker(spec.name, form, brief=brief): (form, brief)
        for form, properties in FORMATS.items()
        if properties.fence is not None
        for brief in ((False, True) if properties.can_be_brief else (False,))
    }
    lines = document.splitlines(keepends=True)
    marked = [(start, *markers[line.strip()]) for start, line in enumerate(lines) if line.strip() in markers]
    for start, form, brief in reversed(marked):
        text = render(spec, form, brief=brief).decode()
        if fence := FORMATS[form].fence:
            text = f"```{fence}\n{text}```\n"
        lines[start + 1 : _end(lines, start)] = ["\n", *text.splitlines(keepends=True), "\n"]
    return "".join(lines) if marked else None


def _end(lines: list[str], start: int) -> int:
    for index in range(start + 1, len(lines)):
        text = lines[index].strip()
        if text == END:
            return index
        if text.startswith("<!-- machine: "):
            break
    raise EmbedError(f"line {start + 1}: the drawing that begins here has no line {END} behind it")
