"""Reads JSON as other programs write it, and writes JSON that every program can read.

A lone surrogate is half of the pair that UTF-16 uses for a character beyond U+FFFF. Python's `json` and JavaScript
write it as an escape (`"\\ud83d"`), for truncated text or a file name that is not UTF-8. Strict readers reject it, so
it becomes U+FFFD, the replacement character, both on input and on output. Programs also print file names as bytes that
are not UTF-8: those become U+FFFD too. Files that people write must be UTF-8. Editors on Windows begin a file with a
byte order mark, which is not part of the JSON.
"""

import re
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Iterator
from typing import Any, TypeVar, overload

import msgspec

from fsm_runner.protocol.json_tree import with_texts

Form = TypeVar("Form")

REPLACEMENT = "\ufffd"
REPLACED_LIMIT = 100_000
"""The most groups of surrogates that are replaced in one text. That blocks the event loop for about 50 ms."""

_PIECE_BYTES = 64 * 1024
"""The size of one decoding step, because text can take four times the memory of its bytes."""
_TRUNCATED = "Input data was truncated"
"""The text of the msgspec error, also for empty input."""
_ANY_ESCAPE = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# An even number of backslashes before an escape are backslashes of the text.
_ESCAPED = re.compile(rb"(?<!\\)((?:\\\\)*)(?:((?:%s)+)|%s)" % (_PAIR, _ANY_ESCAPE))
_ENCODED = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""A surrogate that was encoded in UTF-8 like any other character."""


@overload
def decode_json(content: bytes | str | msgspec.Raw, form: type[Form]) -> Form: ...
@overload
def decode_json(content: bytes | str | msgspec.Raw, form: Any = Any) -> Any: ...
def decode_json(content: bytes | str | msgspec.Raw, form: Any = Any) -> Any:
    """Decode JSON as `form`, without a byte order mark, and with U+FFFD for lone surrogates.

    Raises what `msgspec.json.decode` raises (`wire.DECODE_FAULTS`), also for bytes that are not UTF-8: pass the output
    of a program through `valid_json` first.
    """
    text = content.encode(errors="surrogatepass") if isinstance(content, str) else bytes(content)
    text = _without_surrogates(text)
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.DecodeError as error:
        if str(error) == _TRUNCATED:
            raise msgspec.DecodeError(json_error(text, error)) from None
        raise


def json_error(text: bytes, error: Exception) -> str:
    """Return why a JSON text could not be decoded."""
    if str(error) != _TRUNCATED:
        return str(error)
    return "the JSON is incomplete: it ends too early" if text.strip() else "it is empty"


def encode_json(value: object) -> bytes:
    """Encode a value as JSON in UTF-8. Lone surrogates, as in file names that are not UTF-8, become U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(valid_value(msgspec.to_builtins(value)))


def valid_value(value: Any) -> Any:
    """Return a copy of a decoded JSON document with `valid_text` applied to all texts and names."""
    return with_texts(value, valid_text, names=True)


def valid_json(text: bytes) -> bytes:
    """Return the JSON text of another program as every program can read it.

    It has no byte order mark, no lone surrogates (up to `REPLACED_LIMIT`), and U+FFFD for bytes that are not UTF-8.
    """
    text = _without_surrogates(text)
    try:
        for _ in _decoded_pieces(text, "strict"):
            pass
    except UnicodeDecodeError:
        return b"".join(piece.encode() for piece in _decoded_pieces(text, "replace"))
    return text


def _without_surrogates(text: bytes) -> bytes:
    text = text.removeprefix(BOM_UTF8)
    if b"\\ud" in text or b"\\uD" in text:
        # Pairs stay.
        text = _ESCAPED.sub(lambda found: found[0] if found[2] else found[1] + rb"\ufffd", text, count=REPLACED_LIMIT)
    return _ENCODED.sub(REPLACEMENT.encode(), text) if b"\xed" in text else text


def _decoded_pieces(text: bytes, errors: str) -> Iterator[str]:
    decoder = getincrementaldecoder("utf-8")(errors)
    for start in range(0, len(text), _PIECE_BYTES):
        yield decoder.decode(text[start : start + _PIECE_BYTES])
    yield decoder.decode(b"", final=True)


def valid_text(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates. Two that form a pair become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
