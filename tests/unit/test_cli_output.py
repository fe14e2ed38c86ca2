"""What the commands print."""

import pytest

from fsm_runner.cli.output import show_table


def test_each_row_of_a_table_is_one_aligned_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("NAME", "STATE"), [("two\nlines", "a"), ("\x1b[31mred", "b")])
    assert capsys.readouterr().out == "NAME         STATE\ntwo\\nlines   a\n\\x1b[31mred  b\n"
