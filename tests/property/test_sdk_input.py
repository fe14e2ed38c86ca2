"""The SDK's reader of standard input, with any input in any pieces."""

import contextlib
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_executor.errors import ProtocolError
from fsm_executor.invocation import FIELDS, Invocation, decode_invocation, invocation_schema
from fsm_executor.lines import LineReader
from fsm_executor.messages import EndOfInput, NextTurn, is_beginning, next_message, read_invocation

texts = st.text(st.characters(codec="utf-8"), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, json_values, max_size=4)
VALID: dict[str, st.SearchStrategy[Any]] = {
    "schema_version": st.just("2.2"),
    "mode": st.sampled_from(["start", "resume"]),
    "session_id": st.text(st.characters(codec="utf-8"), min_size=1),
    "parameters": objects,
}
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "project_dir": st.text(st.characters(codec="utf-8"), min_size=1) | st.none(),
    "agent_name": st.text(st.characters(codec="utf-8"), min_size=1) | st.none(),
    "agent_blueprint": objects | st.none(),
    "executor_config": objects | st.none(),
    "metadata": json_values,
    "unknown": json_values,
}
invocations = st.fixed_dictionaries(VALID, optional=OPTIONAL)
near_invocations = st.fixed_dictionaries({}, optional={name: VALID[name] | json_values for name in VALID} | OPTIONAL)
schema = jsonschema.Draft202012Validator(invocation_schema())


def reader(stream: bytes, cuts: list[int], limit_bytes: int = 1 << 20) -> LineReader:
    """Return a reader that gets the stream in pieces that end at these offsets."""
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
    pieces = [stream[start:end] for start, end in zip([0, *ends], ends, strict=False) if start != end]
    pieces.reverse()
    return LineReader(lambda _: pieces.pop() if pieces else b"", limit_bytes)


def lines_of(lines: LineReader) -> list[bytes]:
    found = []
    while (line := lines.line()) is not None:
        found.append(line)
    return found


streams = st.lists(st.binary(max_size=6) | st.just(b"\n"), max_size=20).map(b"".join)
cut_lists = st.lists(st.integers(0, 100), max_size=10)


@given(streams, cut_lists)
def test_lines_do_not_depend_on_the_pieces(stream: bytes, cuts: list[int]) -> None:
    expected = stream.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert lines_of(reader(stream, cuts)) == expected


@given(streams, cut_lists, st.integers(0, 5))
def test_the_rest_is_all_unread_input(stream: bytes, cuts: list[int], count: int) -> None:
    lines = reader(stream, cuts)
    read = [line for line in (lines.line() for _ in range(count)) if line is not None]
    rest = lines.rest()
    assert stream.split(b"\n", len(read))[: len(read)] == read
    assert stream.endswith(rest)
    assert len(stream) - len(rest) - sum(map(len, read)) in (len(read), len(read) - 1)
    assert lines.line() is None


@given(streams, cut_lists, st.integers(0, 8))
def test_a_line_that_exceeds_the_limit_is_rejected(stream: bytes, cuts: list[int], limit_bytes: int) -> None:
    whole = lines_of(reader(stream, cuts))
    lines = reader(stream, cuts, limit_bytes)
    for line in whole:
        if len(line) > limit_bytes:
            with pytest.raises(ProtocolError, match="more than"):
                lines.line()
            return
        assert lines.line() == line


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_decoded_or_rejected(text: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode_invocation(text), Invocation)


@given(near_invocations)
def test_the_decoder_accepts_what_the_schema_accepts(value: dict[str, Any]) -> None:
    try:
        found = decode_invocation(json.dumps(value).encode())
    except ProtocolError:
        assert not schema.is_valid(value)
        return
    assert schema.is_valid(value)
    for each in FIELDS:
        if value.get(each.name) is not None:
            assert getattr(found, each.name) == value[each.name]


@given(invocations, st.sampled_from([None, 1, "\t"]), st.booleans(), cut_lists)
def test_an_invocation_may_span_lines(
    value: dict[str, Any], indent: int | str | None, ascii_only: bool, cuts: list[int]
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert read_invocation(reader(text + b"\n", cuts)) == decode_invocation(text)


@given(objects.filter(bool), st.sampled_from([0, 1, "\t"]))
def test_json_that_is_cut_at_a_line_end_is_a_beginning(value: dict[str, Any], indent: int | str) -> None:
    lines = json.dumps(value, indent=indent).encode().split(b"\n")
    for count in range(1, len(lines)):
        assert is_beginning(b"\n".join(lines[:count]))
    assert not is_beginning(b"\n".join(lines))


@given(st.lists(objects, max_size=4), st.lists(streams, max_size=4), cut_lists)
def test_turns_are_found_among_other_lines(turns: list[Any], noise: list[bytes], cuts: list[int]) -> None:
    stream = b""
    for index, parameters in enumerate(turns):
        stream += b"".join(noise[: index + 1]) + b"\n"
        stream += json.dumps({"type": "turn", "parameters": parameters, "more": 1}).encode() + b"\n"
    lines = reader(stream, cuts)
    assert [next_message(lines) for _ in turns] == [NextTurn(parameters) for parameters in turns]
    assert next_message(lines) == EndOfInput()
