"""Profiles and their agents: valid ones, and errors with file and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.cli.profiles import list_profiles
from fsm_runner.config.budgets import Budget, ChildLimits, UsageLimits
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import PROCEDURAL_COMMAND, load_profile, profile_paths, runner_agent
from fsm_runner.errors import UsageError
from fsm_runner.process.limits.limits import ResourceLimits

PROFILE = {"type": "procedural", "command": PROCEDURAL_COMMAND}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / "profiles").mkdir(parents=True)
    (home / "agents").mkdir()
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    return home


def write(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def refusal(name: str) -> str:
    with pytest.raises(UsageError) as refused:
        load_profile(name)
    return str(refused.value)


def test_a_profile_has_its_agents_in_the_order_of_their_files(home: Path) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"agents_dir": "agents", "config": {"timeout": 5}, "extra": 1})
    write(home / "agents" / "b.json", {"name": "first in the file system's order"})
    write(home / "agents" / "a.json", {"name": "a", "command": "run", "extra": 1})
    (home / "agents" / "notes.txt").write_text("no agent")
    loaded = load_profile("p")
    assert [agent.name for agent in loaded.agents] == ["a", "first in the file system's order"]
    assert loaded.home == home
    assert loaded.executor_folder == home / "executors" / "procedural"


def test_a_profile_is_registered_without_its_name(home: Path) -> None:
    write(
        home / "profiles" / "p.json", PROFILE | {"config": {"a": [1]}, "agents_dir": "agents", "lifecycle": "one_shot"}
    )
    received = load_profile("p").executor_info()
    assert (received.type, received.command, received.config, received.agents_dir, received.lifecycle) == (
        "procedural",
        PROCEDURAL_COMMAND,
        {"a": [1]},
        "agents",
        "one_shot",
    )


def test_hidden_files_are_neither_profiles_nor_agents(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"agents_dir": "agents"})
    write(home / "agents" / "a.json", {"name": "a"})
    for folder in ("profiles", "agents"):
        # The lock of an editor is a link to nothing.
        (home / folder / ".#p.json").symlink_to("me@host.1234:5678")
        (home / folder / "._p.json").write_bytes(b"\x00\x05\x16\x07")
    list_profiles()
    assert capsys.readouterr().out == "p  procedural  agents: a\n"


def test_agents_may_be_in_any_folder(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "a.json", {"name": "a"})
    write(home / "profiles" / "p.json", PROFILE | {"agents_dir": str(elsewhere)})
    assert [agent.name for agent in load_profile("p").agents] == ["a"]


def test_a_profile_has_a_budget_and_bounds_of_children(home: Path) -> None:
    budget = {"run": {"max_cost_usd": 2, "max_turns": 50}, "tree": {"max_tokens": 20_000_000}}
    write(home / "profiles" / "p.json", PROFILE | {"budget": budget, "children": {"max_depth": 0}})
    profile = load_profile("p").profile
    assert profile.budget == Budget(
        run=UsageLimits(max_cost_usd=2.0, max_turns=50), tree=UsageLimits(max_tokens=20_000_000)
    )
    assert profile.children == ChildLimits(max_depth=0, max_count=100)
    write(home / "profiles" / "q.json", PROFILE)
    assert load_profile("q").profile.budget == Budget()
    assert load_profile("q").profile.children == ChildLimits(max_depth=5, max_count=100)


def test_a_profile_has_limits_of_runs(home: Path) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"limits": {"memory_bytes": 1 << 30, "cpu_s": 1.5}})
    assert load_profile("p").profile.limits == ResourceLimits(memory_bytes=1 << 30, cpu_s=1.5)
    write(home / "profiles" / "q.json", PROFILE)
    assert load_profile("q").profile.limits == ResourceLimits()


def test_a_profile_without_agents_has_none(home: Path) -> None:
    write(home / "profiles" / "p.json", PROFILE)
    assert load_profile("p").agents == ()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", ""),
        ("{", ""),
        ("[]", ""),
        ("null", ""),
        ({"command": "x"}, "type"),
        ({"type": "procedural"}, "command"),
        (PROFILE | {"type": "other"}, "$.type"),
        (PROFILE | {"command": 5}, "$.command"),
        (PROFILE | {"config": []}, "$.config"),
        (PROFILE | {"limits": 5}, "$.limits"),
        (PROFILE | {"limits": {"memory": 5}}, "unknown field `memory` - at `$.limits`"),
        (PROFILE | {"budget": {"turn": {}}}, "unknown field `turn` - at `$.budget`"),
        (PROFILE | {"budget": {"run": {"max_cost": 1}}}, "unknown field `max_cost` - at `$.budget.run`"),
        (PROFILE | {"budget": {"run": {"max_cost_usd": 0}}}, "$.budget.run.max_cost_usd"),
        (PROFILE | {"budget": {"tree": {"max_tokens": 1.5}}}, "$.budget.tree.max_tokens"),
        (PROFILE | {"budget": {"session": {"max_turns": -1}}}, "$.budget.session.max_turns"),
        (PROFILE | {"budget": {"session": {"max_turns": 10**13}}}, "$.budget.session.max_turns"),
        (PROFILE | {"children": {"depth": 1}}, "unknown field `depth` - at `$.children`"),
        (PROFILE | {"children": {"max_depth": -1}}, "$.children.max_depth"),
        (PROFILE | {"children": {"max_count": "many"}}, "$.children.max_count"),
        (PROFILE | {"limits": {"memory_bytes": 0}}, "$.limits.memory_bytes"),
        (PROFILE | {"limits": {"memory_bytes": "2GiB"}}, "$.limits.memory_bytes"),
        (PROFILE | {"limits": {"processes": 1.5}}, "$.limits.processes"),
        (PROFILE | {"limits": {"open_files": -1}}, "$.limits.open_files"),
        (PROFILE | {"limits": {"cpu_s": 0}}, "$.limits.cpu_s"),
        (PROFILE | {"limits": {"cpu_s": 1e300}}, "$.limits.cpu_s"),
        (PROFILE | {"limits": {"output_bytes": True}}, "$.limits.output_bytes"),
        (PROFILE | {"agents_dir": 5}, "$.agents_dir"),
        (PROFILE | {"lifecycle": "eternal"}, "$.lifecycle"),
        (PROFILE | {"agents_dir": "nowhere"}, "agents_dir"),
        (PROFILE | {"agents_dir": "nul\0"}, "agents_dir"),
        (PROFILE | {"agents_dir": "x" * 300}, "agents_dir"),
        ("[" * 100_000, ""),
    ],
)
def test_an_invalid_profile_is_reported_with_file_and_field(home: Path, content: Any, named: str) -> None:
    file = write(home / "profiles" / "p.json", content)
    message = refusal("p")
    assert message.startswith(f"{file}: ")
    assert named in message.removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", ""),
        ([], ""),
        ({}, "name"),
        ({"name": 5}, "$.name"),
        ({"name": "a", "parameters_schema": []}, "$.parameters"),
    ],
)
def test_an_invalid_agent_is_reported_with_file_and_field(home: Path, content: Any, named: str) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"agents_dir": "agents"})
    file = write(home / "agents" / "a.json", content)
    message = refusal("p")
    assert message.startswith(f"{file}: ")
    assert named in message.removeprefix(f"{file}: ")


def test_a_file_that_is_not_utf_8_is_a_usage_error(home: Path) -> None:
    (home / "profiles" / "p.json").write_bytes(b'{"type": "procedural", "command": "\xff"}')
    assert str(home / "profiles" / "p.json") in refusal("p")


def test_a_folder_as_profile_is_a_usage_error(home: Path) -> None:
    (home / "profiles" / "p.json").mkdir()
    assert "cannot be read: Is a directory" in refusal("p")


def test_two_files_cannot_define_one_agent(home: Path) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"agents_dir": "agents"})
    for name in ("a.json", "b.json"):
        write(home / "agents" / name, {"name": "same"})
    message = refusal("p")
    assert message.startswith(f"{home / 'agents' / 'b.json'}: name: ")
    assert str(home / "agents" / "a.json") in message


def test_the_error_for_an_unknown_profile_lists_the_available_ones(home: Path) -> None:
    assert refusal("p") == f"Profile not found: 'p'; there are: none (in {home / 'profiles'})"
    write(home / "profiles" / "b.json", PROFILE)
    write(home / "profiles" / "a.json", PROFILE)
    assert "there are: a, b (in" in refusal("p")


@pytest.mark.parametrize("name", ["../profiles/a", "a.json", "", "/etc/passwd", "nul\0"])
def test_a_profile_name_is_not_a_path(home: Path, name: str) -> None:
    write(home / "profiles" / "a.json", PROFILE)
    assert "Profile not found" in refusal(name)


def test_a_profile_of_the_working_directory_hides_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    bundled = profile_paths()
    assert {"echo", "test-procedural"} <= set(bundled)
    (tmp_path / "profiles").mkdir()
    own = write(tmp_path / "profiles" / "echo.json", PROFILE)
    assert profile_paths() == bundled | {"echo": own}


@pytest.mark.parametrize("name", ["echo", "test-procedural"])
def test_the_bundled_profiles_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    loaded = load_profile(name)
    assert [agent.name for agent in loaded.agents] == [name]
    assert loaded.executor_folder.is_dir()


@pytest.mark.parametrize("name", ["AUTH0_DOMAIN", "AGENT_SESSION_ID", "A B", "", "A=B", "1A"])
def test_a_reserved_variable_is_reported(home: Path, name: str) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"env": ["MY_KEY", name]})
    assert f"env: {name}" in refusal("p").replace("'", "")


def test_a_profile_without_a_command_is_a_usage_error(home: Path) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"command": ""})
    assert "$.command" in refusal("p")


def test_the_list_of_profiles_names_an_empty_home(home: Path) -> None:
    with pytest.raises(UsageError, match=str(home / "profiles")):
        list_profiles()


def test_unknown_keys_are_collected(home: Path) -> None:
    write(home / "profiles" / "p.json", PROFILE | {"lifecyle": "persistent", "env": []})
    assert load_profile("p").unknown_keys == ("lifecyle",)


@pytest.mark.parametrize("file", ["profiles/p.json", "agents/a.json"])
def test_an_unknown_expectation_is_an_error_that_names_file_and_key(home: Path, file: str) -> None:
    profile, agent = PROFILE | {"agents_dir": "agents"}, {"name": "a", "command": "run"}
    for path, content in (("profiles/p.json", profile), ("agents/a.json", agent)):
        write(home / path, {**content, **({"expect": ["result", "magic"]} if path == file else {})})
    assert refusal("p") == f"{home / file}: expect: 'magic' is not one of changes, result, data"


@pytest.mark.parametrize(("key", "value"), [("max_running", 0), ("max_running", True), ("retry_lost", -1)])
def test_the_queue_keys_of_an_agent_are_checked(home: Path, key: str, value: Any) -> None:
    agent = {"name": "a", "command": "run"}
    write(home / "profiles/p.json", PROFILE | {"agents_dir": "agents"})
    file = write(home / "agents/a.json", agent | {key: value})
    assert str(file) in refusal("p")
    assert f"$.{key}" in refusal("p")
    write(file, agent | {"max_running": 1, "retry_lost": 0})
    (loaded,) = load_profile("p").agents
    assert (runner_agent(loaded).max_running, runner_agent(loaded).retry_lost) == (1, 0)


@pytest.mark.parametrize("listed", ["result", [1], {"changes": True}])
def test_expectations_are_a_list_of_texts(home: Path, listed: Any) -> None:
    path = write(home / "profiles/p.json", PROFILE | {"expect": listed})
    assert refusal("p").startswith(f"{path}: ")
    assert "$.expect" in refusal("p")


def test_data_can_only_be_expected_of_an_agent_with_a_valid_output_schema(home: Path) -> None:
    write(home / "profiles/p.json", PROFILE | {"agents_dir": "agents", "expect": ["data"]})
    agent = {"name": "a", "command": "run"}
    file = write(home / "agents/a.json", agent)
    assert (
        refusal("p") == f"{file}: output_schema: is missing, but the profile's expect has `data`, which has to match it"
    )
    write(file, agent | {"expect": ["data"]})
    assert refusal("p") == f"{file}: output_schema: is missing, but expect has `data`, which has to match it"
    write(file, agent | {"output_schema": {"type": "magic"}})
    assert refusal("p").startswith(f"{file}: output_schema: $.type: ")
    write(file, agent | {"expect": []})
    assert load_profile("p").agents[0].expect == []
    write(file, agent | {"output_schema": {"type": "object"}})
    assert load_profile("p").profile.expect == ("data",)
