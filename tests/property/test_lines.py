"""The line splitter yields the same lines for any split of any bytes, in bounded memory."""

import json

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from fsm_runner.executors.line_splitter import LINE_END_BYTES, Line, LineSplitter
from fsm_runner.executors.messages import turn_end

streams = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"\n", b"\r\n", b'{"type": "turn_complete"}\n', b"\xff\n", b"\0"])
).map(b"".join)


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(cut % (len(stream) + 1) for cut in cuts)
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


def read(pieces: list[bytes], limit_bytes: int, marker: bytes = b"") -> list[Line]:
    splitter = LineSplitter(marker, limit_bytes)
    lines: list[Line] = []
    for piece in pieces:
        lines += splitter.feed(piece)
        assert len(splitter._partial) <= limit_bytes
    return lines


@given(streams, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([b"turn_complete", b'"', b"\r"]))
def test_lines_do_not_depend_on_how_the_stream_is_cut(stream: bytes, cuts: list[int], marker: bytes) -> None:
    expected = [Line(line, cut=False) for line in stream.split(b"\n")[:-1] if marker in line]
    event(f"lines: {min(len(expected), 3)}")
    assert read(split(stream, cuts), 10_000, marker) == expected
    assert read([bytes([byte]) for byte in stream], 10_000, marker) == expected


@given(streams, st.integers(1, 20))
def test_the_beginning_of_a_long_line_is_kept(stream: bytes, limit_bytes: int) -> None:
    whole = stream.split(b"\n")[:-1]
    event(f"cut: {any(len(line) > limit_bytes for line in whole)}")
    expected = [
        Line(line[:limit_bytes], len(line) > limit_bytes, line[limit_bytes:][-LINE_END_BYTES:]) for line in whole
    ]
    found = read([bytes([byte]) for byte in stream], limit_bytes, b"x")
    assert found == [line for line in expected if line.cut or b"x" in line.content]


@given(st.binary(max_size=200) | streams, st.booleans())
def test_no_line_breaks_the_reader(content: bytes, cut: bool) -> None:
    line = Line(content, cut)
    if turn_end(line) and not cut:
        assert json.loads(content)["type"] == "turn_complete"


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_turn_complete_is_recognized_wherever_its_type_is(fields: dict[str, object]) -> None:
    message = {**fields, "type": "turn_complete"}
    assert turn_end(Line(json.dumps(message).encode(), cut=False))
    assert turn_end(Line(json.dumps(message, indent=None, ensure_ascii=False).encode() + b"\r", cut=False))
    assert not turn_end(Line(json.dumps({**fields, "type": "turn_completed"}).encode(), cut=False))


def test_a_turn_complete_with_a_long_result_is_recognized_by_its_beginning() -> None:
    message = b'{"type": "turn_complete", "result": "' + b"x" * 100 + b'"}\n'
    (line,) = read([message[:1], message[1:]], 64)
    assert line.cut
    assert turn_end(line)
    (sorted_keys,) = read([b"{", b'"result": "' + b"x" * 600 + b'", "type": "turn_complete" }\n'], 64)
    assert turn_end(sorted_keys)
    (other,) = read([b"{", b'"note": "turn_complete", "x": "' + b"x" * 100 + b'"}\n'], 64)
    assert not turn_end(other)


@pytest.mark.parametrize(
    "written",
    [
        b'{"type": "turn_complete", "result": NaN}',
        b'{"type": "turn_complete", "result": -Infinity}',
        b'{"type": "turn_complete", "result": "\\ud83d"}',
        b'{"type": "turn_complete", "result": "\xff"}',
        b'\xef\xbb\xbf{"type": "turn_complete"}',
        b'  {"result": {"type": "other"}, "type": "turn_complete"}\r',
    ],
)
def test_a_turn_is_complete_in_any_json_that_programs_write(written: bytes) -> None:
    assert turn_end(Line(written))


@pytest.mark.parametrize(
    "written", [b'["turn_complete"]', b'"turn_complete"', b"turn_complete", b"[" * 5000 + b'"turn_complete"']
)
def test_a_line_that_only_contains_the_word_completes_no_turn(written: bytes) -> None:
    assert not turn_end(Line(written))
