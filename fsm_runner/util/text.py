"""Short and printable forms of text that other programs wrote."""

import json
import re

EXCERPT_CHARS = 300

LEFT_OUT = re.compile(r"\n?… [0-9,]+ (?:bytes|characters) left out …\n")
"""The line that replaces the middle of a text."""

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys or cannot show: control characters other than tab and line feed, marks that change
the direction of writing, and lone surrogates."""


def truncated(text: str, limit_chars: int) -> str:
    """Return the text, or its beginning and `…`, in at most `limit_chars` characters."""
    return text if len(text) <= limit_chars else text[: limit_chars - 1] + "…"


def without_middle(text: str, limit_chars: int) -> str:
    """Return the text, or its beginning and its end (`limit_chars` in all) around a line that `LEFT_OUT` matches."""
    if len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def excerpt(text: str, limit_chars: int = EXCERPT_CHARS) -> str:
    """Return the beginning of the text for a message: on one line, with control characters escaped."""
    return truncated(escaped(" ".join(text.split())), limit_chars)


def escaped(text: str) -> str:
    r"""Return the text with each control character escaped, such as `\x1b`. Tabs and line feeds stay."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def escaped_json(document: str) -> str:
    r"""Return the same JSON document with each control character in its strings written as `\uXXXX`."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def quoted(text: str) -> str:
    """Return the text in double quotes, on one line; characters that cannot be printed are escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def usd_text(amount: float) -> str:
    """Format an amount of US dollars with at most six decimals."""
    return f"{amount:,.6f}".rstrip("0").rstrip(".")
