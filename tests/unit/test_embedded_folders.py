"""Loading of agents and scripts from folders. Errors name file and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_server.agents import load_agents
from fsm_runner.coordinator_server.scripts import load_scripts
from fsm_runner.errors import UsageError


def write_agent(folder: Path, content: Any) -> Path:
    file = folder / "agent.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def write_script(folder: Path, description: Any, program: str = "run.sh") -> Path:
    (folder / "tool").mkdir()
    file = folder / "tool" / "script.json"
    file.write_text(description if isinstance(description, str) else json.dumps(description))
    (folder / "tool" / program).write_text("#!/bin/sh\n")
    return file


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", ""),
        ("[]", ""),
        ({"description": "x"}, "name"),
        ({"name": "a", "tags": "x"}, "tags"),
        ({"name": "a", "type": "other"}, "type"),
        ({"name": "a", "demands": {"tags": [1]}}, "tags"),
        ({"name": "a", "parameters_schema": {"type": "nothing"}}, "parameters_schema"),
        ({"name": "a", "script": "missing"}, "script"),
        ({"name": "a", "expect": "changes"}, "expect"),
        ({"name": "a", "expect": ["changes", "magic"]}, "expect: 'magic' is not one of changes, result, data"),
        ({"name": "a", "max_running": 0}, "max_running"),
        ({"name": "a", "retry_lost": 1.5}, "retry_lost"),
        ("[" * 100_000, ""),
    ],
)
def test_an_invalid_agent_file_is_refused_by_file_and_field(tmp_path: Path, content: Any, named: str) -> None:
    file = write_agent(tmp_path, content)
    with pytest.raises(UsageError) as refused:
        load_agents(tmp_path, ())
    assert str(file) in str(refused.value)
    assert named in str(refused.value).removeprefix(str(file))


def test_two_files_cannot_define_one_agent(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"name": "same"}')
    with pytest.raises(UsageError, match=r"b\.json: name: .*a\.json"):
        load_agents(tmp_path, ())


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        ({"name": "a"}, "autonomous"),
        ({"name": "a", "command": "x"}, "procedural"),
        ({"name": "a", "script": "tool"}, "procedural"),
        ({"name": "a", "command": "x", "type": "autonomous"}, "autonomous"),
    ],
)
def test_an_agents_type_is_derived_from_its_fields(tmp_path: Path, definition: dict[str, str], kind: str) -> None:
    write_agent(tmp_path, definition)
    assert [agent.type for agent in load_agents(tmp_path, ["tool"])] == [kind]


@pytest.mark.parametrize(
    ("description", "named"),
    [
        ("{", ""),
        ({}, "script_file"),
        ({"script_file": "missing.sh"}, "script_file"),
        ({"script_file": "../tool/run.sh"}, "script_file"),
        ({"script_file": "."}, "script_file"),
        ({"script_file": "run.sh", "demands": {"hostname": 1}}, "hostname"),
    ],
)
def test_an_invalid_script_is_refused_by_file_and_field(tmp_path: Path, description: Any, named: str) -> None:
    file = write_script(tmp_path, description)
    with pytest.raises(UsageError) as refused:
        load_scripts(tmp_path)
    assert str(file) in str(refused.value)
    assert named in str(refused.value).removeprefix(str(file))


@pytest.mark.parametrize("script_file", ["/etc/passwd", "link", "\0"])
def test_a_script_file_outside_of_its_folder_is_refused(tmp_path: Path, script_file: str) -> None:
    write_script(tmp_path, {"script_file": script_file})
    (tmp_path / "tool" / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="script_file"):
        load_scripts(tmp_path)


def test_folders_without_a_script_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_script(tmp_path, {"script_file": "run.sh"})
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "script.json").write_text("no JSON")
    assert list(load_scripts(tmp_path)) == ["tool"]


def test_hidden_agent_files_are_ignored(tmp_path: Path) -> None:
    write_agent(tmp_path, {"name": "a"})
    # An editor's lock file is a dangling link.
    (tmp_path / ".#agent.json").symlink_to("me@host.1234:5678")
    (tmp_path / "._agent.json").write_bytes(b"\x00\x05\x16\x07")
    assert [agent.name for agent in load_agents(tmp_path, ())] == ["a"]


def test_archives_of_the_same_files_are_equal(tmp_path: Path) -> None:
    write_script(tmp_path, {"script_file": "run.sh", "demands": {"tags": ["gpu"]}})
    script = load_scripts(tmp_path)["tool"]
    first = script.archive()
    script.program_file.touch()
    assert script.archive() == first
    assert script.demands.tags == ("gpu",)


@pytest.mark.parametrize("load", [lambda folder: load_agents(folder, ()), load_scripts])
def test_a_folder_that_does_not_exist_is_named(tmp_path: Path, load: Any) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        load(tmp_path / "nowhere")
