"""Which scripts are run in the runner's own environment, and which are left to `uv`."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.executors.program import executor_program
from fsm_runner.executors.script_header import is_met_here, script_head

MSGSPEC = metadata.version("msgspec")


def header(*lines: str) -> bytes:
    return "\n".join(["#!/usr/bin/env python3", "# /// script", *(f"# {line}" for line in lines), "# ///", ""]).encode()


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("dependencies = []",),
        ('dependencies = ["msgspec"]',),
        (f'dependencies = ["MsgSpec=={MSGSPEC}"]',),
        ('requires-python = ">=3.10"', "dependencies = [", '  "msgspec>=0.1",', "]"),
        ("dependencies = ['no-such-package; python_version < \"3\"']",),
    ],
)
def test_what_is_installed_here_need_not_be_fetched(lines: tuple[str, ...]) -> None:
    assert is_met_here(header(*lines))


@pytest.mark.parametrize(
    "lines",
    [
        ('dependencies = ["no-such-package"]',),
        ('dependencies = ["msgspec<0.1"]',),
        ('dependencies = ["msgspec[toml]"]',),
        ('dependencies = ["msgspec @ https://example.org/msgspec.whl"]',),
        ('requires-python = "<3"',),
        ('requires-python = "three"',),
        ("dependencies = [", '  "msgspec",'),
        ('dependencies = "msgspec"',),
        ('dependencies = ["???"]',),
        ("dependencies = []", "[tool.uv]", 'exclude-newer = "2025-01-01T00:00:00Z"'),
    ],
)
def test_anything_else_is_left_to_uv(lines: tuple[str, ...]) -> None:
    assert not is_met_here(header(*lines))


def test_a_header_without_an_end_is_left_to_uv() -> None:
    assert not is_met_here(b"# /// script\n# dependencies = []\n")


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_header_is_a_fault_of_the_runner(lines: list[str]) -> None:
    assert is_met_here("\n".join(["# /// script", *lines, "# ///"]).encode("utf-8", "surrogatepass")) in (True, False)


def test_a_script_that_is_met_is_started_with_the_runners_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(header('dependencies = ["msgspec"]'))
    assert executor_program(script, {"PATH": "/nowhere"}).command == (sys.executable, str(script))


def test_one_that_is_not_is_started_by_uv(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(header('dependencies = ["no-such-package"]'))
    uv, *rest = executor_program(script, {"PATH": "/nowhere"}).command
    assert (Path(uv).name, rest) == ("uv", ["run", "--quiet", "--script", str(script)])


def test_a_file_without_a_header_has_none(tmp_path: Path) -> None:
    file = tmp_path / "plain"
    file.write_text("#!/bin/sh\n")
    assert script_head(file) is None
