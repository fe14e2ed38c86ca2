"""Claude Code and the model's shell see nothing of the runner."""

import json
import os
from pathlib import Path

import pytest

from tests.support.claude import ClaudeBench, claude
from tests.support.messages_api import Calls, Says


async def shell_variables(bench: ClaudeBench) -> dict[str, str]:
    """Return the environment of the model's shell."""
    bench.api.will(Calls("Bash", {"command": "env -0 | tr '\\0' '\\1' | tr '\\n' ' ' | tr '\\1' '\\n'"}), Says("done"))
    await bench.completes(await bench.start())
    (result,) = bench.api.asked[-1].tool_results
    lines = [line.partition("=") for line in str(result["content"]).splitlines()]
    return {name: value for name, _, value in lines}


def names_in(record: Path) -> set[str]:
    """Return the names of the variables that `env -0` wrote to the file."""
    return {entry.partition("=")[0] for entry in record.read_text().split("\0")}


async def test_the_models_shell_has_nothing_of_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH0_RUNNER_CLIENT_SECRET", "a secret")
    monkeypatch.setenv("SOMETHING_ELSE", "of the runner")
    monkeypatch.setenv("NAMED", "by the profile")
    async with claude(tmp_path, monkeypatch, config={"env": ["NAMED"]}) as bench:
        seen = await shell_variables(bench)
    assert seen["NAMED"] == "by the profile"
    assert {"PATH", "HOME"} <= seen.keys()
    hidden = {"AUTH0_RUNNER_CLIENT_SECRET", "SOMETHING_ELSE", "PYTHONPATH", "CLAUDE_CODE_OAUTH_TOKEN"}
    assert not hidden & seen.keys()
    assert not {name for name in seen if name.startswith("AGENT_")}


async def test_hooks_and_mcp_servers_of_the_project_have_nothing_of_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTH0_RUNNER_CLIENT_SECRET", "a secret")
    async with claude(tmp_path, monkeypatch, config={"setting_sources": ["project"]}) as bench:
        settings = bench.project / ".claude/settings.json"
        settings.parent.mkdir(parents=True)
        record = {name: str(tmp_path / name) for name in ("hook", "server")}
        hook = {"hooks": [{"type": "command", "command": f"env -0 > {record['hook']}"}]}
        settings.write_text(json.dumps({"hooks": {"UserPromptSubmit": [hook]}, "enableAllProjectMcpServers": True}))
        server = {"command": "sh", "args": ["-c", f"env -0 > {record['server']}; exec sleep 1000"]}
        (bench.project / ".mcp.json").write_text(json.dumps({"mcpServers": {"near": server}}))
        await bench.completes(await bench.start())
    for file in record.values():
        seen = names_in(Path(file))
        assert {"PATH", "HOME"} <= seen
        assert not {"AUTH0_RUNNER_CLIENT_SECRET", "PYTHONPATH", "CLAUDE_CODE_OAUTH_TOKEN"} & seen
        assert not {name for name in seen if name.startswith("AGENT_")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ANTHROPIC_API_KEY": "sk-ant-test"}, ["CLAUDE_CODE_OAUTH_TOKEN and ANTHROPIC_API_KEY", "conflict"]),
        ({"CLAUDE_CODE_OAUTH_TOKEN": ""}, ["no credentials", "claude setup-token", "CLAUDE_CODE_OAUTH_TOKEN"]),
    ],
    ids=["two", "none"],
)
async def test_credentials_are_checked_before_the_program_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], said: list[str]
) -> None:
    async with claude(tmp_path, monkeypatch, variables=changes) as bench:
        error = await bench.fails(await bench.start())
        assert not bench.api.asked
    assert all(text in error for text in said)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_without_the_sandbox_variable_fails_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch, variables={"IS_SANDBOX": ""}) as bench:
        error = await bench.fails(await bench.start())
        assert not bench.api.asked
    assert "as root" in error
    assert "IS_SANDBOX=1" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_needs_no_sandbox_if_less_is_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"permission_mode": "acceptEdits"}
    async with claude(tmp_path, monkeypatch, variables={"IS_SANDBOX": ""}, config=config) as bench:
        assert await bench.completes(await bench.start()) == "ok"


async def test_credentials_of_an_mcp_server_are_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = {"url": "http://127.0.0.1:9/mcp", "config": {"Authorization": "Bearer of-the-server"}}
    agents = {"connected": {"mcp_servers": {"far": server}, "system_prompt": "You are connected."}}
    async with claude(tmp_path, monkeypatch, agents=agents) as bench:
        bench.api.will(Calls("Bash", {"command": "cat /proc/$PPID/cmdline | tr '\\0' ' '"}), Says("done"))
        await bench.completes(await bench.start(agent="connected", prompt="hello"))
    (result,) = bench.api.asked[-1].tool_results
    assert "--mcp-config" in result["content"]
    assert "of-the-server" not in result["content"]
