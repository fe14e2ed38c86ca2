from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.process.child.capture import BoundedCapture

limits = st.integers(0, 40)
chunk_lists = st.lists(st.binary(max_size=60), max_size=20)


@given(limits, chunk_lists)
def test_the_head_and_the_tail_of_the_stream_are_kept(limit_bytes: int, chunks: list[bytes]) -> None:
    capture = BoundedCapture(limit_bytes)
    stream = b""
    for chunk in chunks:
        capture.add(chunk)
        stream += chunk
        tail_bytes = limit_bytes // 2
        whole = len(stream) <= limit_bytes
        cut = stream[: limit_bytes - tail_bytes] + stream[len(stream) - tail_bytes :]
        assert capture.bytes() == (stream if whole else cut)
        assert len(capture._head) + len(capture._tail) <= limit_bytes
        assert capture.total_bytes == len(stream)
        assert capture.truncated == (not whole)


@given(limits, chunk_lists)
def test_any_bytes_give_a_text(limit_bytes: int, chunks: list[bytes]) -> None:
    capture = BoundedCapture(limit_bytes)
    for chunk in chunks:
        capture.add(chunk)
    assert ("bytes left out" in capture.text()) == capture.truncated


@given(limits, st.text(st.characters(codec="utf-8", exclude_characters="\ufffd\n"), max_size=60), st.integers(1, 7))
def test_sound_text_stays_sound_and_every_byte_is_accounted_for(limit_bytes: int, text: str, chunk_bytes: int) -> None:
    capture = BoundedCapture(limit_bytes)
    stream = text.encode()
    for start in range(0, len(stream), chunk_bytes):
        capture.add(stream[start : start + chunk_bytes])
    kept = capture.text()
    if not capture.truncated:
        assert kept == text
        return
    *head, line, tail = kept.split("\n")
    shown_head = "".join(head)
    assert text.startswith(shown_head)
    assert text.endswith(tail)
    left_out = len(stream) - len(shown_head.encode()) - len(tail.encode())
    assert line == f"… {left_out:,} bytes left out …"
