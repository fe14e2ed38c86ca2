"""Reading a spec file: every deviation from the format has its line, and nothing raises anything but `SpecError`."""

import os
from pathlib import Path

import pytest

from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.spec_file import SPEC_LIMIT_BYTES, read
from fsm_runner.machine.toml_lines import TomlLines
from tests.support.specs import check_file

LINED = """\
# a comment with = and [brackets]
name = "m" # 2

[states]
"a b" = { retry = { times = 1 } }
c.doc = '''
[not.a.table]
x = 1
'''
[states.d] # 10
ignore = [
    "one", # ] not the end
    # "two"
    "three",
    [ "four",
      "five" ], "six",
    \"\"\"
]
\"\"\",
]
doc = "]"
[[transitions]]
from = "x"
[transitions.inner."deep.er"]
z = 1
[[transitions]]
to = "y"
"""


def test_each_key_has_its_line() -> None:
    lines = TomlLines(LINED)
    expected: dict[tuple[str | int, ...], int] = {
        ("name",): 2,
        ("states",): 4,
        ("states", "a b"): 5,
        ("states", "a b", "retry", "times"): 5,
        ("states", "c"): 6,
        ("states", "c", "doc"): 6,
        ("states", "d"): 10,
        ("states", "d", "ignore"): 11,
        ("states", "d", "ignore", 0): 12,
        ("states", "d", "ignore", 1): 14,
        ("states", "d", "ignore", 2): 15,
        ("states", "d", "ignore", 4): 17,
        ("states", "d", "doc"): 21,
        ("transitions",): 22,
        ("transitions", 0, "from"): 23,
        ("transitions", 0, "inner", "deep.er"): 24,
        ("transitions", 0, "inner", "deep.er", "z"): 25,
        ("transitions", 1): 26,
        ("transitions", 1, "to"): 27,
    }
    assert {path: lines.of(path) for path in expected} == expected


def test_a_missing_key_has_the_line_of_its_table() -> None:
    lines = TomlLines(LINED.replace("\n", "\r\n"))
    assert lines.of(("transitions", 1, "from")) == 26
    assert lines.of(("nothing",)) == 1


def test_every_deviation_from_the_format_is_found(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(
        """\
nme = "m"
initial = ""
[events]
halt = 1
[states.a]
timeout_s = -1
retry = { times = 1.0, base_s = "1", cap = 2 }
final = "yes"
[states.b]
timeout_s = inf
ignore = "halt"
[[transitions]]
from = ["a", 1]
to = 2026-01-01
gaurd = "x"
[other]
"""
    )
    assert [str(defect).removeprefix(f"{file}:") for defect in read(file).defects] == [
        "1: name: is missing",
        '1: nme: unknown key (did you mean "name"?)',
        '2: initial: must be a text that is not empty, not ""',
        "4: events.halt: must be a text, not 1",
        "6: states.a.timeout_s: must be a number of seconds above 0 or a text that is not empty, not -1",
        '7: states.a.retry.base_s: must be a number of seconds above 0, not "1"',
        '7: states.a.retry.cap: unknown key (did you mean "cap_s"?)',
        "7: states.a.retry.cap_s: is missing",
        "7: states.a.retry.times: must be a whole number above 0, not 1.0",
        '8: states.a.final: must be true or false, not "yes"',
        "10: states.b.timeout_s: must be a number of seconds above 0 or a text that is not empty, not inf",
        '11: states.b.ignore: must be a list, not "halt"',
        "12: transitions[0].event: is missing",
        "13: transitions[0].from[1]: must be a text that is not empty, not 1",
        "14: transitions[0].to: must be a text that is not empty, not 2026-01-01",
        '15: transitions[0].gaurd: unknown key (did you mean "guard"?)',
        "16: other: unknown key; there are name, initial, doc, events, tags, states, groups, transitions",
    ]


TOO_DEEP = ": is nested too deeply: remove the innermost tables and lists"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = 1\nb = = 2\n", ":2: is not TOML: Invalid value, column 5"),
        (b"a = [1,\n", ":2: is not TOML: Invalid value, at the end of the file"),
        (b"a = 1\na = 2\n", ":2: is not TOML: Cannot overwrite a value, column 6"),
        (b"a = 1\nb = '\xff'\n", ":2: is not UTF-8: byte 0xff"),
        (b"a = " + b"[" * 100_000, TOO_DEEP),
        (b".".join([b"a"] * 1000) + b" = 1", TOO_DEEP),
        (b"[[" + b".".join([b"a"] * 1000) + b"]]", TOO_DEEP),
        (
            b"#" * (SPEC_LIMIT_BYTES + 1),
            f": is larger than {SPEC_LIMIT_BYTES} bytes: shorten it, or name another file",
        ),
    ],
)
def test_a_file_that_is_not_toml_has_one_defect(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "spec.toml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read(file)
    assert [str(defect) for defect in caught.value.defects] == [f"{file}{expected}"]
    assert check_file(file) == caught.value.defects


@pytest.mark.parametrize(
    "value", ["nan", "-nan", "inf", "1e400", "9" * 400, "0", "true", "[]", "{}", "1979-05-27", '""']
)
def test_an_impossible_time_limit_is_a_defect_on_its_line(tmp_path: Path, value: str) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(f"[states.a]\ntimeout_s = {value}\n")
    expected = f"{file}:2: states.a.timeout_s: must be a number of seconds above 0 or a text that is not empty, not "
    assert any(str(defect).startswith(expected) for defect in read(file).defects)


def test_a_number_of_too_many_digits_is_a_defect(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(f"[states.a]\ntimeout_s = 0x{'f' * 5000}\n")
    with pytest.raises(SpecError, match="contains a number with too many digits"):
        read(file)


def test_a_file_that_cannot_be_read_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.toml: cannot be read: No such file or directory"):
        read(tmp_path / "gone.toml")
    with pytest.raises(SpecError, match="is a directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="pipe: is not a regular file"):
        read(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SpecError, match="loop: cannot be read: Too many levels of symbolic links"):
        read(tmp_path / "loop")
    with pytest.raises(SpecError, match="cannot be read: "):
        read("a\0b")


def test_an_empty_file_lacks_the_required_keys(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text("")
    assert [defect.place for defect in read(file).defects] == ["events", "initial", "name", "states", "transitions"]
