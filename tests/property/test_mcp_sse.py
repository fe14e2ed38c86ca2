"""Server-sent events may come in pieces of any size."""

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.coordinator_client.event_stream import EventParser

LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
TEXT = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=30)
KINDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=10)
LINES = st.one_of(
    TEXT.map(lambda text: f"data: {text}"),
    TEXT.map(lambda text: f":{text}"),
    KINDS.map(lambda kind: f"event: {kind}"),
    st.sampled_from(["", "", "data", "data:", "id: 7", "retry: 1000", "event:", "event", "datax: 1"]),
)


@st.composite
def in_pieces(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(0, len(whole)))))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def events_in(parser: EventParser, pieces: list[bytes]) -> int:
    return sum(map(parser.feed, pieces))


def by_the_book(lines: list[str]) -> int:
    """Count the events of these lines, as the specification of the format defines them."""
    events, has_data = 0, False
    for line in lines:
        if not line:
            events, has_data = events + has_data, False
        elif line.split(":")[0] == "data":
            has_data = True
    return events


@given(st.data(), st.lists(st.tuples(LINES, LINE_ENDS), max_size=30))
def test_any_division_into_chunks_gives_the_same_events(data: st.DataObject, lines: list[tuple[str, str]]) -> None:
    # An empty line after a bare CR would make it a CRLF of one line.
    text = "".join(line + ("\n" if end == "\r" else end) for line, end in lines)
    pieces = data.draw(in_pieces(text.encode()))
    assert events_in(EventParser(), pieces) == by_the_book([line for line, _ in lines])


@given(st.data(), st.lists(LINES, max_size=30))
def test_a_carriage_return_alone_ends_a_line(data: st.DataObject, lines: list[str]) -> None:
    pieces = data.draw(in_pieces("".join(f"{line}\r" for line in lines).encode()))
    assert events_in(EventParser(), pieces) == by_the_book(lines)


@given(st.data(), st.binary(max_size=300))
def test_any_bytes_are_parsed_without_an_error_and_within_the_limit(data: st.DataObject, garbage: bytes) -> None:
    parser = EventParser(line_limit_bytes=16)
    whole = events_in(EventParser(line_limit_bytes=16), [garbage])
    events = 0
    for piece in data.draw(in_pieces(garbage)):
        events += parser.feed(piece)
        assert parser.buffered_bytes <= 16
    assert events == whole


def test_a_line_beyond_the_limit_does_not_hide_the_next_event() -> None:
    parser = EventParser(line_limit_bytes=16)
    assert parser.feed(b"event: a\ndata: " + b"x" * 1000) == 0
    assert parser.buffered_bytes == 16
    assert parser.feed(b"x" * 1000 + b"\n\nevent: b\ndata: 1\n\n") == 2
