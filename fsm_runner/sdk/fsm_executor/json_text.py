"""JSON that every program can read: lone surrogates (halves of a UTF-16 pair) become U+FFFD.

Python strings have them for file names that are not UTF-8, and for texts that another program cut within a pair.
"""

from __future__ import annotations

import json
import re
from typing import Any

_REPLACEMENT = r"\ufffd"
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# An even number of backslashes before the escape is not part of it: each pair is an escaped backslash.
_SURROGATES = re.compile(rf"(?<!\\)((?:\\\\)*)(?:((?:{_PAIR})+)|\\u[dD][89a-fA-F][0-9a-fA-F]{{2}})")


def encode_json(value: Any, *, allow_nan: bool = True) -> str:
    """Return the value as JSON in ASCII, on one line. Raises the exceptions of `json.dumps`."""
    return without_lone_surrogates(json.dumps(value, allow_nan=allow_nan))


def without_lone_surrogates(text: str) -> str:
    """Return the JSON text with U+FFFD in place of lone surrogates. The length does not change."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _SURROGATES.sub(lambda found: found[0] if found[2] else found[1] + _REPLACEMENT, text)
