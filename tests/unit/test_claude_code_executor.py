"""The parts of the Claude Code executor that need no program: prompts, environment, failures."""

import json
import os
from pathlib import Path

import pytest
from claude_agent_sdk import ResultMessage, SystemMessage
from hypothesis import given
from hypothesis import strategies as st

from claude_code_executor.config import MANIFEST, Config, decode_config
from claude_code_executor.diagnosis import Diagnosis
from claude_code_executor.environment import check_environment, remove_private_variables
from claude_code_executor.event_reporter import build_prompt
from claude_code_executor.results import TurnFailed, TurnResults
from claude_code_executor.settings_files import ignored_settings
from fsm_executor import ExecutorError
from fsm_runner.config.profiles import load_profile, profile_paths

ORDINARY_USER = 1000

SOUND_SETTINGS = {
    "permissions": {"allow": [], "deny": [], "ask": [], "defaultMode": "default", "disableBypassPermissionsMode": ""},
    "hooks": {},
    "env": {},
    "model": "opus",
    "sandbox": {},
    "agent": "a",
    "disableAllHooks": True,
    "allowedHttpHookUrls": [],
}
TOKEN = {"CLAUDE_CODE_OAUTH_TOKEN": "a token"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def result(subtype: str = "success", **fields: object) -> ResultMessage:
    given = {"duration_ms": 1500, "duration_api_ms": 1, "is_error": False, "num_turns": 2, "session_id": "s", **fields}
    return ResultMessage(subtype=subtype, **given)  # type: ignore[arg-type]  # each test names what it is about


def turn_results(*messages: ResultMessage) -> TurnResults:
    results = TurnResults("p")
    for message in messages:
        results.record(message)
    return results


@given(st.text())
def test_a_prompt_is_passed_unchanged(prompt: str) -> None:
    assert build_prompt({"prompt": prompt, "more": 1}, has_schema=False) == prompt


@given(st.dictionaries(st.text("abcxyz_", min_size=1), json_values))
def test_every_parameter_is_in_the_block(parameters: dict[str, object]) -> None:
    first, *lines, last = build_prompt(parameters, has_schema=True).split("\n")
    assert (first, last) == ("<inputs>", "</inputs>")
    for key, value in parameters.items():
        if not isinstance(value, str):
            assert f"{key}: {json.dumps(value, ensure_ascii=False)}" in lines
        else:
            assert any(line.startswith(f"{key}:") for line in lines)


def test_parameters_without_a_prompt_are_a_block() -> None:
    assert build_prompt({"topic": "bees"}, has_schema=False) == "<inputs>\ntopic: bees\n</inputs>"


def test_an_invalid_config_is_rejected_with_its_key() -> None:
    with pytest.raises(ExecutorError, match=r"config\.max_turns: 0 is less than the minimum of 1"):
        decode_config({"max_turns": 0})
    assert decode_config({"setting_sources": [], "max_turns": 3}) == Config(setting_sources=(), max_turns=3)


def test_the_manifest_has_the_actual_defaults() -> None:
    properties = json.loads(MANIFEST.read_text())["config_schema"]["properties"]
    named = {key: schema["default"] for key, schema in properties.items() if "default" in schema}
    assert decode_config(named) == Config()
    assert {"stall_notice_s", "background_limit_s", "mcp_required"} <= named.keys()


def test_all_restricted_profiles_have_the_same_permissions() -> None:
    configs = [load_profile(name).profile.config for name in profile_paths() if name.startswith("restricted-")]
    permitted = [(config["permission_mode"], config["tools"]) for config in configs]
    assert permitted == [("acceptEdits", ["Read", "Glob", "Grep", "Edit", "Write", "NotebookEdit"])] * 4


def test_an_ordinary_user_needs_only_a_credential() -> None:
    check_environment(TOKEN, Config(), ORDINARY_USER)
    check_environment({"ANTHROPIC_API_KEY": "a key"}, Config(), ORDINARY_USER)


def test_root_needs_the_sandbox_variable() -> None:
    with pytest.raises(ExecutorError, match="IS_SANDBOX=1"):
        check_environment(TOKEN, Config(), 0)
    check_environment({**TOKEN, "IS_SANDBOX": "1"}, Config(), 0)
    check_environment(TOKEN, Config(permission_mode="acceptEdits"), 0)


def test_the_program_does_not_inherit_the_gateway_url() -> None:
    environment = {
        **TOKEN,
        "AGENT_ORCHESTRATOR_API_URL": "http://gateway",
        "AGENT_SESSION_ID": "ses_1",
        "PYTHONPATH": "sdk",
    }
    remove_private_variables(environment)
    assert environment == TOKEN
    assert "AGENT_ORCHESTRATOR_API_URL" not in os.environ


def test_an_api_error_with_the_subtype_success_is_a_failure() -> None:
    failed = result(is_error=True, result="API Error: Overloaded", api_error_status=529)
    with pytest.raises(TurnFailed, match=r"^API Error: Overloaded \(HTTP 529\)$"):
        turn_results(failed).raise_failure(Config(), Diagnosis().cause_of(failed))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("none", "CLAUDE_CODE_OAUTH_TOKEN"),
        ("ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
        ("apiKeyHelper", "the key of the settings' apiKeyHelper"),
        (None, "CLAUDE_CODE_OAUTH_TOKEN"),
    ],
)
def test_a_refusal_names_the_credential_in_use(source: str | None, name: str) -> None:
    diagnosis = Diagnosis()
    diagnosis.detail_of(SystemMessage("init", {"apiKeySource": source}))
    assert f"does not accept {name}" in diagnosis.cause_of(result(is_error=True, api_error_status=401))


def test_each_turn_may_repeat_a_refused_request_once() -> None:
    diagnosis = Diagnosis()
    refused = SystemMessage("api_retry", {"error_status": 401, "attempt": 1, "max_retries": 10, "retry_delay_ms": 500})
    for _ in range(2):
        diagnosis.detail_of(SystemMessage("init", {}))
        assert diagnosis.detail_of(refused) == "the API answers with HTTP 401; retry 1 of 10 in 0.5 s"
    with pytest.raises(TurnFailed, match="HTTP 401"):
        diagnosis.detail_of(refused)


@pytest.mark.parametrize(
    ("subtype", "said"),
    [
        ("error_max_turns", "not complete after 3 answers"),
        ("error_max_budget_usd", "budget of 0.5 USD"),
        ("error_max_structured_output_retries", "output_schema"),
        ("error_during_execution", "what went wrong"),
        ("error_of_tomorrow", "what went wrong"),
    ],
)
def test_each_kind_of_failure_has_a_message(subtype: str, said: str) -> None:
    ended = result(subtype, errors=["what went wrong"])
    with pytest.raises(TurnFailed, match=said):
        turn_results(ended).raise_failure(Config(max_turns=3, max_budget_usd=0.5), "")


@pytest.mark.parametrize("output", [None, "text", ["a"], 1])
def test_structured_output_must_be_an_object(output: object) -> None:
    with pytest.raises(TurnFailed, match="it answered: so there"):
        turn_results(result(structured_output=output, result="so there")).structured_output()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (json.dumps(SOUND_SETTINGS), None),
        ("\ufeff{}", None),
        ('{"permissions": ', None),
        ("[]", None),
        (" \n", "is empty"),
        ('{"Permissions": {}}', "'Permissions' is probably meant to be 'permissions'"),
        ('{"hook": {}}', "'hook' is probably meant to be 'hooks'"),
        ('{"permissions": {"denny": []}}', "permissions: 'denny' is probably meant to be 'deny'"),
        ('{"deny": ["Bash"]}', "'deny' belongs in 'permissions'"),
    ],
)
def test_settings_that_the_program_ignores_without_a_warning(tmp_path: Path, settings: str, said: str | None) -> None:
    """The program itself reports other defects, such as invalid JSON."""
    file = tmp_path / "settings.json"
    file.write_text(settings, encoding="utf-8")
    variables = {"CLAUDE_CONFIG_DIR": str(tmp_path)}
    found = ignored_settings(["user"], tmp_path / "project", variables)
    assert len(found) == (said is not None)
    assert all(said in defect and str(file) in defect for defect in found if said)
    assert ignored_settings([], tmp_path, variables) == []


def test_a_settings_file_that_is_a_broken_link_is_reported(tmp_path: Path) -> None:
    file = tmp_path / ".claude" / "settings.json"
    assert ignored_settings(["user"], tmp_path, {"HOME": str(tmp_path)}) == []
    file.parent.mkdir()
    file.symlink_to(tmp_path / "missing")
    assert ignored_settings(["user"], tmp_path / "project", {"HOME": str(tmp_path)}) == [
        f"the settings file {file} is a link to a file that does not exist"
    ]
