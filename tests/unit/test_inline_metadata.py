"""Scripts that run in the runner's own environment, and scripts that need `uv`."""

import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.errors import UsageError
from fsm_runner.executors.program import executor_program
from fsm_runner.scripts.inline_metadata import DISTRIBUTION, extra_for, is_satisfied_here, script_head
from tests.support.program import REPOSITORY

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
def test_installed_requirements_are_satisfied(lines: tuple[str, ...]) -> None:
    assert is_satisfied_here(header(*lines))


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
def test_other_metadata_is_left_to_uv(lines: tuple[str, ...]) -> None:
    assert not is_satisfied_here(header(*lines))


def test_metadata_without_an_end_is_left_to_uv() -> None:
    assert not is_satisfied_here(b"# /// script\n# dependencies = []\n")


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_header_is_a_fault_of_the_runner(lines: list[str]) -> None:
    assert is_satisfied_here("\n".join(["# /// script", *lines, "# ///"]).encode("utf-8", "surrogatepass")) in (
        True,
        False,
    )


def test_a_script_that_is_met_is_started_with_the_runners_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(header('dependencies = ["msgspec"]'))
    assert executor_program(script, {"PATH": "/nowhere"}).command == (sys.executable, str(script))


def test_one_that_is_not_is_started_by_uv(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(header('dependencies = ["no-such-package"]'))
    uv, *rest = executor_program(script, {"PATH": "/nowhere"}).command
    assert (Path(uv).name, rest) == ("uv", ["run", "--quiet", "--script", str(script)])


def test_a_file_without_metadata(tmp_path: Path) -> None:
    file = tmp_path / "plain"
    file.write_text("#!/bin/sh\n")
    assert script_head(file) is None


def runner_distribution(folder: Path, *requirements: str) -> None:
    """Write the metadata of an installed runner whose extras have these requirements, each with its marker."""
    lines = ["Metadata-Version: 2.4", f"Name: {DISTRIBUTION}", "Version: 0", "Requires-Dist: msgspec"]
    lines += [f"Requires-Dist: {each}" for each in requirements]
    lines += [f"Provides-Extra: {name}" for name in ("dev", "claude-code")]
    info = folder / "fsm_runner-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def runner_with_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = "no-such-sdk==1.2"
    runner_distribution(
        tmp_path,
        f"{sdk}; extra == 'claude-code'",
        *(f"{each}; extra == 'dev'" for each in (sdk, "no-such-tool>=2", "other")),
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("runner_with_extras")
@pytest.mark.parametrize(
    ("dependencies", "extra"),
    [
        ('["no-such-sdk==1.2"]', "claude-code"),
        ('["No.Such_SDK", "msgspec"]', "claude-code"),
        ('["no-such-sdk==1.2", "no-such-tool"]', "dev"),
        ('["no-such-sdk==1.3"]', None),
        ('["no-such-sdk[fast]"]', None),
        ('["no-such-sdk", "no-such-package"]', None),
        ('["msgspec"]', None),
        ('["???"]', None),
    ],
)
def test_the_smallest_extra_with_the_missing_requirements(dependencies: str, extra: str | None) -> None:
    assert extra_for(header(f"dependencies = {dependencies}")) == extra


@pytest.mark.usefixtures("runner_with_extras")
def test_an_error_about_missing_dependencies_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script"
    script.write_bytes(header('dependencies = ["no-such-sdk==1.2"]'))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UsageError) as refused:
        executor_program(script, {"PATH": "/nowhere"})
    assert "run `pip install 'fsm-runner[claude-code]'` in the runner's environment" in str(refused.value)
    assert str(script) in str(refused.value)


def test_the_requirements_of_the_claude_code_executor_are_those_of_the_extra() -> None:
    """Otherwise the error about missing dependencies would not name the extra."""
    head = script_head(REPOSITORY / "executors/claude-code/ao-claude-code-exec")
    assert head is not None
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"dependencies = {json.dumps(declared['claude-code'])}".encode() in head
