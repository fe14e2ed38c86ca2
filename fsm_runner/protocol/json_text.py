"""JSON as other programs write it, and JSON that every program can read.

A lone surrogate is half of the pair that UTF-16 needs for a character beyond U+FFFF. Python's `json` and JavaScript
write it as an escape (`"\\ud83d"`), for a text that was cut or a file name that is not UTF-8. Strict readers refuse it,
so it becomes U+FFFD, the replacement character, on the way in and on the way out. Programs also print names of files as
they are, in bytes that are not UTF-8: those become U+FFFD too. A file that a person writes has to be UTF-8. Editors on
Windows begin a file with a byte order mark, which is no part of its JSON.
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
"""The most runs of surrogates examined in one text. That takes about 50 ms, during which the event loop is blocked."""

_PIECE_BYTES = 64 * 1024
"""How much is decoded at once, because a text can take four times the memory of its bytes."""
_TRUNCATED = "Input data was truncated"
"""msgspec's words, also for an empty text."""
_ANY_ESCAPE = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# An even number of backslashes before the escape does not belong to it: each two are one backslash of the text.
_ESCAPED = re.compile(rb"(?<!\\)((?:\\\\)*)(?:((?:%s)+)|%s)" % (_PAIR, _ANY_ESCAPE))
_ENCODED = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""A surrogate that was written into UTF-8 like any other character."""


@overload
def decode_json(content: bytes | str | msgspec.Raw, form: type[Form]) -> Form: ...
@overload
def decode_json(content: bytes | str | msgspec.Raw, form: Any = Any) -> Any: ...
def decode_json(content: bytes | str | msgspec.Raw, form: Any = Any) -> Any:
    """A JSON text as `form`. A byte order mark is left out, and lone surrogates become U+FFFD.

    Raises what `msgspec.json.decode` raises (`wire.DECODE_FAULTS`), also for bytes that are not UTF-8: pass what a
    program has written through `sound_json` first.
    """
    text = content.encode(errors="surrogatepass") if isinstance(content, str) else bytes(content)
    text = _without_surrogates(text)
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.DecodeError as defect:
        if str(defect) == _TRUNCATED:
            raise msgspec.DecodeError(json_defect(text, defect)) from None
        raise


def json_defect(text: bytes, defect: Exception) -> str:
    """What is wrong with a JSON text that could not be decoded."""
    if str(defect) != _TRUNCATED:
        return str(defect)
    return "the JSON is incomplete: it ends too early" if text.strip() else "it is empty"


def encode_json(value: object) -> bytes:
    """A value as JSON in UTF-8. Lone surrogates, as in file names that are not UTF-8, become U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(sound_value(msgspec.to_builtins(value)))


def sound_value(value: Any) -> Any:
    """A copy of a decoded JSON document in which `sound_text` has changed every text and every name."""
    return with_texts(value, sound_text, names=True)


def sound_json(text: bytes) -> bytes:
    """A JSON text of another program in the form that every program reads.

    It has no byte order mark and no lone surrogates, up to `REPLACED_LIMIT`, and is UTF-8: other bytes become U+FFFD.
    """
    text = _without_surrogates(text)
    return text if _is_utf8(text) else b"".join(piece.encode() for piece in _decoded_pieces(text, "replace"))


def _without_surrogates(text: bytes) -> bytes:
    text = text.removeprefix(BOM_UTF8)
    if b"\\ud" in text or b"\\uD" in text:
        text = _ESCAPED.sub(_replaced, text, count=REPLACED_LIMIT)
    return _ENCODED.sub(REPLACEMENT.encode(), text) if b"\xed" in text else text


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        for _ in _decoded_pieces(text, "strict"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _decoded_pieces(text: bytes, errors: str) -> Iterator[str]:
    decoder = getincrementaldecoder("utf-8")(errors)
    for start in range(0, len(text), _PIECE_BYTES):
        yield decoder.decode(text[start : start + _PIECE_BYTES])
    yield decoder.decode(b"", final=True)


def sound_text(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates; two that make a pair become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _replaced(found: re.Match[bytes]) -> bytes:
    return found[0] if found[2] else found[1] + rb"\ufffd"
