"""JSON of other programs: lone surrogates, byte order marks, and invalid text."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fsm_executor.json_text
from fsm_runner.protocol.json_text import decode_json, encode_json, valid_json
from fsm_runner.protocol.wire import DECODE_FAULTS

SURROGATES = [
    (rb'"\ud83d"', "\ufffd"),
    (rb'"caf\udce9.txt"', "caf\ufffd.txt"),
    (rb'"\uD83D\uDE00"', "\U0001f600"),
    (rb'"\ud83d\ud83d\ude00\ude00"', "\ufffd\U0001f600\ufffd"),
    (rb'"\\ud83d"', "\\ud83d"),
    (rb'"\\\ud83d\n"', "\\\ufffd\n"),
    (rb'"\\\\\ud83d\ude00"', "\\\\\U0001f600"),
    (rb'"\\ud83d\ude00"', "\\ud83d\ufffd"),
]


@pytest.mark.parametrize(("text", "value"), [*SURROGATES, (b'"\xed\xa0\xbd"', "\ufffd"), (b'"\xed\x95\x9c"', "\ud55c")])
def test_a_lone_surrogate_is_read_as_the_replacement_character(text: bytes, value: str) -> None:
    assert decode_json(text) == value
    assert decode_json(b'{"a": [%s]}' % text, dict[str, Any]) == {"a": [value]}
    assert msgspec.json.decode(valid_json(text)) == value


@pytest.mark.parametrize(("text", "value"), SURROGATES)
def test_the_sdk_reads_it_alike(text: bytes, value: str) -> None:
    assert msgspec.json.decode(fsm_executor.json_text.without_lone_surrogates(text.decode())) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'"caf\xe9.txt"', "caf\ufffd.txt"),
        (b'"\xc3"', "\ufffd"),
        (b'"\xed\xa0\xbd\xff\xf0\x9f"', "\ufffd\ufffd\ufffd"),
        (b'"\xe9\\ud83d"', "\ufffd\ufffd"),
    ],
)
def test_a_byte_that_is_not_utf8_is_replaced_in_output_of_programs(text: bytes, value: str) -> None:
    assert decode_json(valid_json(b'{"a": %s}' % text)) == {"a": value}
    with pytest.raises(DECODE_FAULTS):
        decode_json(text.replace(b"\\ud83d", b""))


@pytest.mark.parametrize("body", ["x" * 70_000, "ü" * 70_000, "x" + "ü" * 70_000, "😀" * 70_000])
def test_characters_at_the_edges_of_pieces_are_whole(body: str) -> None:
    encoded = msgspec.json.encode(body)
    assert valid_json(encoded) == encoded
    assert decode_json(valid_json(encoded[:-1] + b'\xf0"')) == body + "\ufffd"


@given(st.text(st.characters()))
def test_any_text_can_be_encoded(text: str) -> None:
    sent = msgspec.json.decode(encode_json({text: [text]}))
    assert sent == msgspec.json.decode(fsm_executor.json_text.encode_json({text: [text]}))
    (name,) = sent
    assert sent == {name: [name]}
    assert name == text or not text.isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_valid_text_is_unchanged(text: str) -> None:
    encoded = msgspec.json.encode(text)
    assert valid_json(encoded) == encoded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "it is empty"),
        (b"\xef\xbb\xbf \n", "it is empty"),
        (b'{"a":', "the JSON is incomplete: it ends too early"),
        (b'{"a": \xff', "invalid character"),
    ],
)
def test_invalid_json_is_reported(text: bytes, message: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=message):
        decode_json(text)


def test_a_byte_order_mark_is_not_part_of_the_json() -> None:
    assert decode_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert decode_json('\ufeff{"a": 1}') == {"a": 1}
