"""Text of other programs, made safe to show on a terminal."""

import re

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Everything that a terminal obeys or cannot show: control characters other than tab and line feed, marks that change
the direction of writing, and halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""The text with each control character escaped, such as `\x1b`. Tabs and line feeds stay."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(document: str) -> str:
    r"""The same JSON document with each control character in its strings written as `\uXXXX`."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
