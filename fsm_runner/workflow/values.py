"""Limits what a value of a workflow may contain (docs/workflows.md, "Values")."""

import math
from collections.abc import Mapping
from typing import Any

from fsm_runner.protocol.json_text import REPLACEMENT, valid_text
from fsm_runner.protocol.json_tree import with_texts

TEXT_LIMIT_BYTES = 64 * 1024
LIST_LIMIT = 1_000
DEPTH_LIMIT = 32
"""Levels of lists and objects in a value."""
TOO_DEEP = "… nested too deeply …"
"""Replaces a list or an object below the last level."""

_INTEGERS = range(-(2**63), 2**63)


def bounded(value: Any, levels: int = DEPTH_LIMIT) -> Any:
    """Return a copy of decoded JSON within the limits, which any encoder and the expression language accept.

    Texts keep their beginning and their end, lists their first elements. A number that JSON cannot express is null.
    """
    if isinstance(value, str):
        return bounded_text(value)
    if isinstance(value, Mapping | list | tuple):
        if levels == 0:
            return TOO_DEEP
        if isinstance(value, Mapping):
            return {bounded_text(str(key)): bounded(part, levels - 1) for key, part in value.items()}
        return [bounded(part, levels - 1) for part in value[:LIST_LIMIT]]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INTEGERS:
        return _as_float(value)
    return value


def bounded_text(text: str) -> str:
    """Return a text of at most `TEXT_LIMIT_BYTES` in UTF-8. A line replaces the middle of a longer one."""
    text = readable_text(text)
    if len(text) <= TEXT_LIMIT_BYTES // 4 or len(encoded := text.encode()) <= TEXT_LIMIT_BYTES:
        return text
    # Redaction finds the parts of secrets beside this line (`util/text.py`, `LEFT_OUT`).
    line = f"\n… {len(encoded):,} bytes left out …\n"
    half = (TEXT_LIMIT_BYTES - len(line.encode())) // 2
    beginning, end = encoded[:half].decode(errors="ignore"), encoded[-half:].decode(errors="ignore")
    left_out = len(encoded) - len(beginning.encode()) - len(end.encode())
    return f"{beginning}\n… {left_out:,} bytes left out …\n{end}"


def readable_text(text: str) -> str:
    """Return the text with U+FFFD for NUL characters and lone surrogates."""
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    return text if text.isascii() else valid_text(text)


def readable(value: Any) -> Any:
    """Return a copy of decoded JSON of any size with `readable_text` applied to all texts and names."""
    return with_texts(value, readable_text, names=True)


def _as_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
