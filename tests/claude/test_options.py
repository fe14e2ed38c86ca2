"""Options of agents and profiles, as Claude Code applies them."""

import json
from pathlib import Path

import pytest

from fsm_runner.config.profiles import load_profile
from fsm_runner.protocol.wire import RunCreated
from tests.support.claude import MODEL, ClaudeBench, claude
from tests.support.messages_api import Calls, Says

OWN_PROMPT = "You are Claude Code"


async def test_the_agents_system_prompt_replaces_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"poet": {"system_prompt": "You write in verse."}}
    config = {"append_system_prompt": "Be brief."}
    async with claude(tmp_path, monkeypatch, agents=agents, config=config) as bench:
        await bench.completes(await bench.start(agent="poet", prompt="a poem"))
        await bench.completes(await bench.start("without an agent"))
    as_poet, as_itself = (asked.system for asked in bench.api.asked)
    assert "You write in verse.\n\nBe brief." in as_poet
    assert "You write in verse." not in as_itself
    assert "Be brief." in as_itself
    assert len(as_itself) > 10 * len(as_poet)


async def test_a_system_prompt_may_be_longer_than_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Be kind. " * 30_000
    async with claude(tmp_path, monkeypatch, agents={"kind": {"system_prompt": text}}) as bench:
        await bench.completes(await bench.start(agent="kind", prompt="hello"))
    assert text.strip() in bench.api.asked[0].system


@pytest.mark.parametrize("sources", [["project"], []], ids=["project", "isolated"])
async def test_the_projects_instructions_are_loaded_if_the_profile_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str]
) -> None:
    async with claude(tmp_path, monkeypatch, config={"setting_sources": sources}) as bench:
        (bench.project / "CLAUDE.md").write_text("Speak of the zebra.")
        await bench.completes(await bench.start())
    assert ("Speak of the zebra." in json.dumps(bench.api.asked[0].body)) is bool(sources)


async def test_a_disallowed_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, config={"disallowed_tools": ["Write"]}) as bench:
        await bench.completes(await bench.start())
    assert "Write" not in bench.api.asked[0].tools
    assert "Bash" in bench.api.asked[0].tools


async def _runs_a_command(bench: ClaudeBench) -> tuple[RunCreated, dict[str, object]]:
    """Run a command that creates a file; return the run and the tool event."""
    bench.api.will(Calls("Bash", {"command": "touch made-by-a-command"}), Says("done"))
    run = await bench.start()
    await bench.completes(run)
    (event,) = [event for event in await bench.events(run) if event["event_type"] == "post_tool"]
    return run, event


async def test_a_tool_that_needs_permission_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, config={"permission_mode": "default"}) as bench:
        _, event = await _runs_a_command(bench)
        assert not (bench.project / "made-by-a-command").exists()
    assert event["error"]


async def test_an_allowed_tool_needs_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"permission_mode": "default", "allowed_tools": ["Bash(touch:*)"]}
    async with claude(tmp_path, monkeypatch, config=config) as bench:
        _, event = await _runs_a_command(bench)
        assert (bench.project / "made-by-a-command").exists()
    assert event["error"] is None


async def test_accept_edits_permits_changes_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, config={"permission_mode": "acceptEdits"}) as bench:
        file = bench.project / "made.txt"
        bench.api.will(Calls("Write", {"file_path": str(file), "content": "yes"}), Says("done"))
        await bench.completes(await bench.start())
        assert file.read_text() == "yes"


async def test_max_turns_limits_the_answers_in_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, config={"max_turns": 2}) as bench:
        bench.api.otherwise = Calls("Bash", {"command": "true"})
        error = await bench.fails(await bench.start())
    assert "not complete after 2 answers" in error


async def test_max_turns_applies_to_each_run_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, config={"max_turns": 2}) as bench:
        two_answers = (Calls("Bash", {"command": "true"}), Says("done"))
        bench.api.will(*two_answers, *two_answers)
        first = await bench.start()
        await bench.completes(first)
        assert await bench.completes(await bench.resume(first, "again")) == "done"


async def test_max_budget_usd_limits_the_cost_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, config={"max_budget_usd": 0.0001}) as bench:
        bench.api.otherwise = Calls("Bash", {"command": "true"})
        error = await bench.fails(await bench.start())
    assert "budget of 0.0001 USD" in error


async def test_settings_that_do_not_load_are_a_status_detail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program ignores them, including their deny rules."""
    async with claude(tmp_path, monkeypatch, config={"setting_sources": ["project"]}) as bench:
        file = bench.write_settings('{"permissions": {"deny": ["Bash(touch:*)"]},}')
        (bench.project / ".mcp.json").write_text('{"mcpServers": ')
        run, event = await _runs_a_command(bench)
        assert (event["error"], (bench.project / "made-by-a-command").exists()) == (None, True)
        servers, settings = bench.details(run)
    assert "did not load" in settings
    assert f"{file}: Invalid or malformed JSON" in settings
    assert servers.startswith(f"the MCP servers of {bench.project / '.mcp.json'} are missing")


async def test_settings_that_are_ignored_without_a_warning_are_a_status_detail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch, config={"setting_sources": ["project", "local"]}) as bench:
        file = bench.write_settings("")
        local = file.with_name("settings.local.json")
        local.write_text('{"permisions": {"deny": ["Bash"]}}')
        run, event = await _runs_a_command(bench)
        assert event["error"] is None
        assert bench.details(run) == [
            f"the settings file {file} is empty, so it has no effect",
            f"the settings file {local} has a key that Claude Code ignores: 'permisions' is probably meant to be "
            "'permissions'",
        ]


async def test_ignored_permissions_are_a_status_detail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"setting_sources": ["project"], "permission_mode": "default"}
    async with claude(tmp_path, monkeypatch, config=config) as bench:
        bench.write_settings({"permissions": {"allow": ["Bash(touch:*)"]}})
        run, event = await _runs_a_command(bench)
        (detail,) = bench.details(run)
    assert event["error"]
    assert (
        "Ignoring 1 permissions.allow entry from .claude/settings.json: this workspace has not been trusted" in detail
    )


async def test_a_restricted_profile_changes_files_of_the_project_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other restricted profiles have the same permissions (tests/unit/test_claude_code_executor.py)."""
    config = load_profile("restricted-project-quick").profile.config
    async with claude(tmp_path, monkeypatch, config={**config, "model": MODEL}) as bench:
        (bench.project / "folder").mkdir()
        kept = bench.project / "kept.txt"
        kept.write_text("kept")
        outside = tmp_path / "outside.txt"
        changes = [
            *(
                Calls("Bash", {"command": text})
                for text in ("rm -rf folder", "sed -i s/kept/lost/ kept.txt", ": > made")
            ),
            Calls("Monitor", {"command": "touch made", "description": "makes a file", "timeout_ms": 1000}),
            Calls("Write", {"file_path": str(outside), "content": "no"}),
            Calls("Write", {"file_path": str(bench.project / ".claude" / "settings.json"), "content": "{}"}),
        ]
        allowed = [
            Calls("Write", {"file_path": str(bench.project / "written.txt"), "content": "yes"}),
            Calls("Glob", {"pattern": "*.txt"}),
        ]
        bench.api.will(*changes, *allowed, Says("done"))
        run = await bench.start()
        await bench.completes(run)
        errors = [bool(event["error"]) for event in await bench.events(run) if event["event_type"] == "post_tool"]
        assert errors == [True] * len(changes) + [False] * len(allowed)
        assert sorted(path.name for path in bench.project.iterdir()) == ["folder", "kept.txt", "written.txt"]
        assert (kept.read_text(), outside.exists()) == ("kept", False)
