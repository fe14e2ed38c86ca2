"""Text of other programs cannot control a terminal."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.util.text import escaped, escaped_json

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x07\x9b\x85\r\u202e\u2066\x7f\x00\t\n")))


@given(TEXTS)
def test_escaped_text_holds_no_control_character(text: str) -> None:
    shown = escaped(text)
    assert CONTROLS.search(shown) is None
    shown.encode()


@given(TEXTS)
def test_text_without_controls_stays_as_it_is(text: str) -> None:
    plain = CONTROLS.sub("", text)
    assert escaped(plain) == plain


@given(st.dictionaries(TEXTS, TEXTS))
def test_printable_json_is_the_same_document(document: dict[str, str]) -> None:
    shown = escaped_json(json.dumps(document, ensure_ascii=False))
    assert CONTROLS.search(shown) is None
    assert json.loads(shown) == document


def test_escapes_are_readable() -> None:
    assert escaped("a\x1b]0;owned\x07b\r\nc\u202e\td") == r"a\x1b]0;owned\x07b\r" + "\nc" + r"\u202e" + "\td"
