"""An executor's invocation, environment and working directory (protocol.md, section 2)."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import load_profile
from fsm_runner.diagnostics.redaction import MASK
from fsm_runner.errors import UsageError
from fsm_runner.executors.environment import SDK_FOLDER, executor_environment
from fsm_runner.protocol.wire import JsonObject, RunRequest
from tests.support.command_executor import AGENT, PROFILE, ScriptedBench, command_home, scripted_bench
from tests.support.faults import Answer, rewrite
from tests.support.proxy import POLL
from tests.support.runner import open_system

Lifecycle = Literal["one_shot", "persistent"]
LIFECYCLES: tuple[Lifecycle, ...] = ("one_shot", "persistent")
CONFIG = {"model": "opus", "depth": [1, {"two": None}], "ratio": 0.5, "text": "${runner.orchestrator_mcp_url}"}
MCP_URL = "http://tools.example:1234/mcp"
REPORT = [["report"]]
DEAD_PROXY = "http://127.0.0.1:9"
DEPTH = 800
"""Deeper than a recursive function can process."""
UNKNOWN_AGENT = "thinker"
BLUEPRINT: JsonObject = {
    "name": UNKNOWN_AGENT,
    "type": "autonomous",
    "parameters_schema": {"type": "object"},
    "system_prompt": "Tools are at ${runner.orchestrator_mcp_url}, ${runner.orchestrator_mcp_url}; ${runner.other}.",
    "mcp_servers": {
        "tools": {"url": "${runner.orchestrator_mcp_url}", "config": {"X-Agent-Tags": "a,b"}},
        "more": [{"deep": ["${runner.orchestrator_mcp_url}/x", 1, None, True, 2.5]}],
    },
    "unknown": {"to": ["this", "runner"], "empty": {}, "nothing": None},
}


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_the_invocation_of_a_start_has_exactly_the_fields_of_the_protocol(
    tmp_path: Path, lifecycle: Lifecycle
) -> None:
    home = command_home(tmp_path / "home", lifecycle=lifecycle, config=CONFIG)
    async with scripted_bench(tmp_path, home) as at_work:
        run = await at_work.start(*REPORT)
        answer = await at_work.completes(run)
        assert answer["message"] == {
            "schema_version": "2.2",
            "mode": "start",
            "session_id": run.session_id,
            "parameters": {"steps": REPORT},
            "project_dir": str(tmp_path / "project"),
            "agent_name": AGENT,
            "agent_blueprint": {"name": AGENT, "command": "", "parameters_schema": {"type": "object"}},
            "executor_config": CONFIG,
        }


async def test_the_invocation_of_a_resume_has_no_project_directory(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home", lifecycle="one_shot", config=CONFIG)
    async with scripted_bench(tmp_path, home) as at_work:
        first = await at_work.start(["bind"], *REPORT)
        pid = (await at_work.completes(first))["pid"]
        answer = await at_work.completes(await at_work.resume(first, *REPORT))
        assert answer["pid"] != pid
        assert answer["directory"] == str(tmp_path / "project")
        assert answer["message"] == {
            "schema_version": "2.2",
            "mode": "resume",
            "session_id": first.session_id,
            "parameters": {"steps": REPORT},
            "agent_name": AGENT,
            "agent_blueprint": {"name": AGENT, "command": "", "parameters_schema": {"type": "object"}},
            "executor_config": CONFIG,
        }


async def test_a_run_without_an_agent_names_none(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as at_work:
        request = RunRequest(type="start_session", parameters={"prompt": "hello", "steps": REPORT})
        answer = await at_work.completes(await at_work.system.api.create_run(request))
        assert answer["message"].keys() == {
            "schema_version",
            "mode",
            "session_id",
            "parameters",
            "project_dir",
            "executor_config",
        }


@pytest.mark.parametrize(
    "value", [2**64, -(2**70), 1e308, "\u2028\x00\x7f😀", "a\nb\r\n", {"": [[], {}, None]}, "${runner.x}"], ids=ascii
)
async def test_parameters_arrive_unchanged(tmp_path: Path, value: Any) -> None:
    async with scripted_bench(tmp_path) as at_work:
        run = await at_work.system.submit(AGENT, steps=REPORT, value=value)
        assert (await at_work.completes(run))["message"]["parameters"] == {"steps": REPORT, "value": value}


async def test_the_invocation_has_the_whole_blueprint_with_filled_placeholders(tmp_path: Path) -> None:
    async with of_the_coordinator(tmp_path, BLUEPRINT) as at_work:
        run = await at_work.system.submit(UNKNOWN_AGENT, steps=REPORT)
        assert (await at_work.completes(run))["message"]["agent_blueprint"] == {
            **BLUEPRINT,
            "system_prompt": f"Tools are at {MCP_URL}, {MCP_URL}; ${{runner.other}}.",
            "mcp_servers": {
                "tools": {"url": MCP_URL, "config": {"X-Agent-Tags": "a,b"}},
                "more": [{"deep": [f"{MCP_URL}/x", 1, None, True, 2.5]}],
            },
        }


async def test_a_run_works_in_the_directory_that_it_names(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with scripted_bench(tmp_path) as at_work:
        run = await at_work.system.submit_in(str(elsewhere), AGENT, steps=REPORT)
        answer = await at_work.completes(run)
        assert answer["directory"] == str(elsewhere)
        assert answer["message"]["project_dir"] == str(elsewhere)


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_an_executor_gets_only_the_documented_environment(
    tmp_path: Path, lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTH0_RUNNER_CLIENT_SECRET", "AUTH0_DOMAIN", "AWS_SECRET_ACCESS_KEY", "UV_INDEX", "PYTHONPATH"):
        monkeypatch.setenv(name, "the runner's own")
    monkeypatch.setenv("AGENT_ORCHESTRATOR_API_URL", "http://coordinator.example")
    monkeypatch.setenv("AGENT_SESSION_ID", "ses_of_somebody_else")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "the executor's")
    home = command_home(tmp_path / "home", lifecycle=lifecycle, env=("CLAUDE_CODE_OAUTH_TOKEN", "NOT_SET_HERE"))
    async with scripted_bench(tmp_path, home) as at_work:
        run = await at_work.start(*REPORT)
        environment = (await at_work.completes(run))["environment"]
        url = environment.pop("AGENT_ORCHESTRATOR_API_URL")
        assert url.startswith("http://127.0.0.1:")
        assert environment == {
            **executor_environment(os.environ, has_sdk=True),
            "AGENT_SESSION_ID": run.session_id,
            # It gets the value, but events must not contain it.
            "CLAUDE_CODE_OAUTH_TOKEN": MASK,
        }


BINDS_BY_URLLIB = f"""#!{sys.executable} -IS
import json, os, sys, urllib.request
invocation = json.load(sys.stdin)
assert os.environ["http_proxy"] == "{DEAD_PROXY}"
body = json.dumps({{"session_id": invocation["session_id"], "executor_session_id": "x"}}).encode()
urllib.request.urlopen(urllib.request.Request(
    os.environ["AGENT_ORCHESTRATOR_API_URL"] + "/bind", body, {{"Content-Type": "application/json"}}))
"""


async def test_an_executor_reaches_its_gateway_past_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most HTTP clients use the proxy for every host that is not exempt."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, DEAD_PROXY)
    home = command_home(tmp_path / "home", BINDS_BY_URLLIB, lifecycle="one_shot")
    async with scripted_bench(tmp_path, home) as at_work:
        run = await at_work.start()
        await at_work.completes(run)
        assert "bind" in at_work.accepted_messages(run)


async def test_a_python_path_of_the_profile_comes_before_the_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/modules")
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", env=("PYTHONPATH",))) as at_work:
        environment = (await at_work.completes(await at_work.start(*REPORT)))["environment"]
        assert environment["PYTHONPATH"] == f"/opt/modules{os.pathsep}{SDK_FOLDER}"


@pytest.mark.parametrize("name", ["AUTH0_RUNNER_CLIENT_SECRET", "AGENT_ORCHESTRATOR_API_URL", "AGENT_SESSION_ID"])
def test_a_profile_cannot_pass_on_the_runners_own_variables(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = command_home(tmp_path, env=("HOME", name))
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=f"{home.path}: env: {name} belongs to the runner"):
        load_profile(PROFILE)


async def test_a_blueprint_may_be_nested_as_deep_as_json_can_be_read(tmp_path: Path) -> None:
    deep = b'"deep":' + b"[" * DEPTH + b"]" * DEPTH + b","

    def deepened(answer: Answer) -> Answer:
        return msgspec.structs.replace(answer, body=answer.body.replace(b'"parameters_schema"', deep + b'"unknown"'))

    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", POLL, rewrite(deepened), times=None)
        async with system.running(command_home(tmp_path / "home")) as runner:
            at_work = ScriptedBench(system, runner)
            for _ in range(2):
                await at_work.completes(await at_work.start())


@asynccontextmanager
async def of_the_coordinator(folder: Path, blueprint: JsonObject) -> AsyncIterator[ScriptedBench]:
    """The coordinator has this agent beside the runner's own."""
    agents_dir = folder / "agents"
    agents_dir.mkdir()
    (agents_dir / f"{blueprint['name']}.json").write_bytes(msgspec.json.encode(blueprint))
    async with (
        open_system(folder, agents_dir=agents_dir) as system,
        system.running(command_home(folder / "home"), external_mcp_url=MCP_URL) as runner,
    ):
        yield ScriptedBench(system, runner)
