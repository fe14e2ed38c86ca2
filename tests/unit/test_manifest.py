"""The manifest beside an executor, and its effect on profiles."""

import json
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import LoadedProfile, load_profile
from fsm_runner.errors import UsageError

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "level": {"type": "integer", "minimum": 1},
        "nested": {"type": "object", "properties": {"name": {"type": "string"}}},
        "env": {"type": "array", "items": {"type": "string"}},
    },
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("profiles", "executors/mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "executors/mine/mine").touch()
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


def loaded(home: Path, config: dict[str, Any], manifest: Any = None, **fields: Any) -> LoadedProfile:
    if manifest is not None:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        (home / "executors/mine/executor.json").write_text(text)
    profile = {"type": "autonomous", "command": "executors/mine/mine", "config": config, **fields}
    (home / "profiles/p.json").write_text(json.dumps(profile))
    return load_profile("p")


def test_without_a_manifest_any_config_is_valid(home: Path) -> None:
    profile = loaded(home, {"anything": 1, "env": ["A"]}, env=["B"])
    assert profile.variables == ("B",)


def test_variables_of_the_manifest_are_added_to_those_of_the_profile(home: Path) -> None:
    profile = loaded(home, {"env": ["A"]}, {"env": ["TOKEN"], "config_schema": SCHEMA}, env=["B"])
    assert profile.named_variables == ("B", "A")
    assert profile.variables == ("B", "A", "TOKEN")


def test_a_valid_config_is_accepted(home: Path) -> None:
    config = {"level": 2, "nested": {"name": "x"}}
    assert loaded(home, config, {"config_schema": SCHEMA}).profile.config == config


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"levle": 1}, "config: there is no levle; there are: level, nested, env"),
        ({"level": 0}, "config.level: 0 is less than the minimum of 1"),
        ({"level": "1"}, "config.level: '1' is not of type 'integer'"),
        ({"nested": {"name": 1}}, "config.nested.name: 1 is not of type 'string'"),
        ({"env": ["AUTH0_DOMAIN"]}, "config.env: AUTH0_DOMAIN belongs to the runner"),
        ({"env": ["NO=NAME"]}, "config.env: 'NO=NAME' cannot be the name of a variable"),
    ],
)
def test_an_invalid_config_is_reported_with_file_and_key(home: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        loaded(home, config, {"config_schema": SCHEMA})
    assert str(refused.value).startswith(f"{home}/profiles/p.json: {said}")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("no JSON", "executor.json: JSON is malformed"),
        ({"evn": []}, "executor.json: Object contains unknown field `evn`"),
        ({"env": "TOKEN"}, "executor.json: Expected `array`"),
        (
            {"env": ["AUTH0_RUNNER_CLIENT_SECRET"]},
            "env: AUTH0_RUNNER_CLIENT_SECRET belongs to the runner",
        ),
        ({"credentials": ["AUTH0_DOMAIN"]}, "executor.json: credentials: AUTH0_DOMAIN belongs to the runner"),
        ({"env": ["A B"]}, "executor.json: env: 'A B' cannot be the name of a variable"),
        ({"config_schema": {"type": "objekt"}}, "executor.json: config_schema: 'objekt' is not valid"),
    ],
)
def test_an_invalid_manifest_is_reported(home: Path, manifest: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        loaded(home, {}, manifest)
    assert said in str(refused.value)
