"""Short forms of text that other programs wrote."""

from fsm_runner.util.text import LEFT_OUT, excerpt, quoted, truncated, without_middle


def test_a_truncated_text_keeps_to_its_limit() -> None:
    assert truncated("abcd", 4) == "abcd"
    assert truncated("abcde", 4) == "abc…"


def test_a_text_without_its_middle_says_what_is_missing() -> None:
    assert without_middle("abcdef", 6) == "abcdef"
    assert LEFT_OUT.split(without_middle("abcdefg", 4)) == ["ab", "fg"]


def test_an_excerpt_is_one_harmless_line() -> None:
    assert excerpt("ses_1") == "ses_1"
    assert excerpt(" ses\n ERROR forged\n") == "ses ERROR forged"
    assert excerpt("\x1b[2J") == r"\x1b[2J"
    assert len(excerpt("x" * 10_000, 60)) == 60


def test_a_quoted_text_is_readable_unless_it_cannot_be_printed() -> None:
    assert quoted('ü"') == '"ü\\""'
    assert quoted("ü\n\ud83d") == r'"\u00fc\n\ud83d"'
