"""The headline of an error."""

import pytest

from fsm_runner.util.error_text import headline


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n  it broke  \nhere\n", "it broke  "),
        (
            'Traceback (most recent call last):\n  File "x", line 1\nValueError: no\nError: ValueError: no\n',
            "Error: ValueError: no",
        ),
        ("progress 10% (killed by SIGKILL, exit code 137)", "progress 10% (killed by SIGKILL, exit code 137)"),
        ("it broke\nhere\n(killed by SIGKILL, exit code 137)", "it broke (killed by SIGKILL, exit code 137)"),
        ("a warning\n--- stdout ---\nit broke\n(exit code 3)", "a warning (exit code 3)"),
        (
            "Traceback (most recent call last):\nValueError: no\n--- stdout ---\nprogress\n(exit code 1)",
            "ValueError: no (exit code 1)",
        ),
        ("--- stdout ---\n(exit code 1)", "--- stdout --- (exit code 1)"),
        ("(exit code 1)", "(exit code 1)"),
        (
            "limit: Traceback (most recent call last):\nOSError: no",
            "limit: Traceback (most recent call last):",
        ),
        ("10%Traceback (most recent call last):\nValueError: no", "ValueError: no"),
        ("  + Exception Group Traceback (most recent call last):\n  | x\nError: no", "Error: no"),
        (
            "  File \"kt\", line 3\n    if True\n           ^\nSyntaxError: expected ':'\n(exit code 1)",
            "SyntaxError: expected ':' (exit code 1)",
        ),
        (
            "/a b/x.js:3\n    throw new Error('no')\n    ^\n\nError: no\n    at Object.<anonymous>\n\nNode.js v20",
            "Error: no",
        ),
        ("/etc/motd:3\nno such line", "/etc/motd:3"),
        ("it said:\nTraceback (most recent call last):\nValueError: no", "it said:"),
    ],
)
def test_the_headline_is_the_line_that_says_most(text: str, line: str) -> None:
    assert headline(text) == line
