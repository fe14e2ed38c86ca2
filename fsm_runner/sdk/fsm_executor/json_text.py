"""JSON that every program can read: U+FFFD stands in place of lone surrogates (halves of a pair of UTF-16).

Python has them for file names that are not UTF-8, and for texts that were cut by a program that counts in UTF-16.
"""

from __future__ import annotations

import json
import re
from typing import Any

_REPLACEMENT = r"\ufffd"
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# An even number of backslashes before the escape does not belong to it: each two are one backslash of the text.
_SURROGATES = re.compile(rf"(?<!\\)((?:\\\\)*)(?:((?:{_PAIR})+)|\\u[dD][89a-fA-F][0-9a-fA-F]{{2}})")


def encode_json(value: Any, *, allow_nan: bool = True) -> str:
    """A value as JSON in ASCII, on one line. Raises what `json.dumps` raises."""
    return without_lone_surrogates(json.dumps(value, allow_nan=allow_nan))


def without_lone_surrogates(text: str) -> str:
    """A JSON text with U+FFFD in place of lone surrogates; its length stays the same."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _SURROGATES.sub(lambda found: found[0] if found[2] else found[1] + _REPLACEMENT, text)
