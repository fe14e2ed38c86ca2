"""Server-sent events may come in pieces of any size."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.mcp_server.event_stream import EventParser

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


def kinds_of(parser: EventParser, pieces: list[bytes]) -> list[str]:
    return [kind for piece in pieces for kind in parser.feed(piece)]


def by_the_book(lines: list[str]) -> Iterator[str]:
    """The events of these lines, as the specification of the format puts it."""
    kind, data = "", False
    for line in lines:
        field, _, value = line.partition(":")
        if not line:
            if data:
                yield kind or "message"
            kind, data = "", False
        elif field == "event":
            kind = value.removeprefix(" ")
        elif field == "data":
            data = True


@given(st.data(), st.lists(st.tuples(LINES, LINE_ENDS), max_size=30))
def test_any_division_into_chunks_gives_the_same_events(data: st.DataObject, lines: list[tuple[str, str]]) -> None:
    # An empty line after a bare CR would make it a CRLF of one line.
    text = "".join(line + ("\n" if end == "\r" else end) for line, end in lines)
    pieces = data.draw(in_pieces(text.encode()))
    assert kinds_of(EventParser(), pieces) == list(by_the_book([line for line, _ in lines]))


@given(st.data(), st.lists(LINES, max_size=30))
def test_a_carriage_return_alone_ends_a_line(data: st.DataObject, lines: list[str]) -> None:
    pieces = data.draw(in_pieces("".join(f"{line}\r" for line in lines).encode()))
    assert kinds_of(EventParser(), pieces) == list(by_the_book(lines))


@given(st.data(), st.binary(max_size=300))
def test_any_bytes_are_parsed_without_an_error_and_within_the_limit(data: st.DataObject, garbage: bytes) -> None:
    parser = EventParser(line_limit_bytes=16)
    whole = kinds_of(EventParser(line_limit_bytes=16), [garbage])
    kinds = []
    for piece in data.draw(in_pieces(garbage)):
        kinds += parser.feed(piece)
        assert parser.buffered_bytes <= 16
    assert kinds == whole


def test_a_line_beyond_the_limit_does_not_hide_the_next_event() -> None:
    parser = EventParser(line_limit_bytes=16)
    assert parser.feed(b"event: a\ndata: " + b"x" * 1000) == []
    assert parser.buffered_bytes == 16
    assert parser.feed(b"x" * 1000 + b"\n\nevent: b\ndata: 1\n\n") == ["a", "b"]
