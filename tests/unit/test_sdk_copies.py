"""The SDK repeats a few parts of the runner, because it may not import them. Both copies must behave alike."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fsm_executor
from fsm_executor.clock import EventClock
from fsm_executor.invocation import FIELDS, MODES
from fsm_executor.json_text import encode_json, without_lone_surrogates
from fsm_executor.lines import LineReader
from fsm_runner.executors.line_splitter import LineSplitter
from fsm_runner.executors.messages import SCHEMA_VERSION, Invocation
from fsm_runner.protocol import event_clock, json_text

any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from('\\"\ud83d\ude00'))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


def test_the_protocol_is_the_same() -> None:
    assert fsm_executor.SCHEMA_VERSIONS == (SCHEMA_VERSION,)
    assert [each.name for each in FIELDS] == list(Invocation.__struct_fields__)
    (modes,) = (field.type for field in msgspec.structs.fields(Invocation) if field.name == "mode")
    assert modes.__args__ == MODES


@given(json_values)
def test_encoded_json_has_the_same_meaning(value: Any) -> None:
    assert json.loads(encode_json(value)) == msgspec.json.decode(json_text.encode_json(value))


@given(any_text)
def test_lone_surrogates_are_replaced_alike(text: str) -> None:
    written = json.dumps(text)
    assert without_lone_surrogates(written).encode() == json_text.valid_json(written.encode())


@given(st.lists(st.integers(0, 4_000_000_000_000_000), min_size=1))
def test_timestamps_are_the_same(times_us: list[int]) -> None:
    """They increase strictly and have one width, even if the clock jumps."""
    ours = EventClock(iter([time_us * 1000 for time_us in times_us]).__next__)
    stamps = [ours.now() for _ in times_us]
    assert stamps == sorted(set(stamps))
    assert {len(stamp) for stamp in stamps} == {len("2026-01-01T00:00:00.000000Z")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", iter([time_us / 1e6 for time_us in times_us]).__next__)
        theirs = event_clock.EventClock()
        assert [theirs.now() for _ in times_us] == stamps


@given(st.lists(st.binary(max_size=6) | st.just(b"\n"), max_size=20))
def test_lines_are_split_alike(pieces: list[bytes]) -> None:
    remaining = [piece for piece in reversed(pieces) if piece]
    reader = LineReader(lambda _: remaining.pop() if remaining else b"")
    read = list(iter(reader.line, None))
    splitter = LineSplitter(b"")
    split = [line.content for piece in pieces for line in splitter.feed(piece)]
    assert read == split + [line.content for line in splitter.rest() if line.content]
