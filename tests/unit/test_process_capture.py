import pytest

from fsm_runner.process.child.capture import BoundedCapture


def captured(limit_bytes: int, *chunks: bytes) -> BoundedCapture:
    capture = BoundedCapture(limit_bytes)
    for chunk in chunks:
        capture.add(chunk)
    return capture


def test_a_short_stream_is_kept_whole() -> None:
    capture = captured(10, b"hello", b" ", b"you!")
    assert not capture.truncated
    assert capture.bytes() == b"hello you!"
    assert capture.text() == "hello you!"


def test_the_beginning_and_end_of_a_long_stream_are_kept() -> None:
    capture = captured(10, b"0123456789", b"abc", b"defghij")
    assert capture.truncated
    assert capture.total_bytes == 20
    assert capture.bytes() == b"01234fghij"


def test_an_odd_limit_gives_the_beginning_one_byte_more() -> None:
    assert captured(5, b"abcdefgh").bytes() == b"abcgh"


@pytest.mark.parametrize(("limit_bytes", "kept"), [(0, b""), (1, b"a"), (2, b"ad")])
def test_tiny_limits_hold(limit_bytes: int, kept: bytes) -> None:
    assert captured(limit_bytes, b"a", b"b", b"cd").bytes() == kept


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        BoundedCapture(-1)


def test_a_separate_line_says_how_much_was_left_out() -> None:
    capture = captured(8, b"abcd", b"x" * 1234, b"wxyz")
    assert capture.text() == "abcd\n… 1,234 bytes left out …\nwxyz"


def test_no_empty_line_precedes_that_line() -> None:
    assert captured(8, b"abc\n", b"----", b"wxyz").text() == "abc\n… 4 bytes left out …\nwxyz"


def test_a_cut_character_is_left_out() -> None:
    capture = captured(8, "ab😀😀😀yz".encode())  # both cuts are in the middle of a character
    assert capture.text() == "ab\n… 12 bytes left out …\nyz"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert captured(10, b"a\xffb").text() == "a\N{REPLACEMENT CHARACTER}b"


def test_a_limit_of_zero_still_says_how_much_was_left_out() -> None:
    assert captured(0, b"abc").text() == "… 3 bytes left out …\n"
