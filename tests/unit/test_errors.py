"""What of an error is shown where there is one line for it."""

import pytest

from fsm_runner.errors import headline


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n  it broke  \nhere\n", "it broke  "),
        (
            'Traceback (most recent call last):\n  File "x", line 1\nValueError: no\nError: ValueError: no\n',
            "Error: ValueError: no",
        ),
        ("it said:\nTraceback (most recent call last):\nValueError: no", "it said:"),
    ],
)
def test_the_headline_is_the_line_that_says_most(text: str, line: str) -> None:
    assert headline(text) == line
