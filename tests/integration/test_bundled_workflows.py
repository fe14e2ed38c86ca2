"""The bundled workflows with a procedural agent: with an embedded coordinator, and with `fsm-runner run`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.app.control_requests import Decide, ListApprovals
from fsm_runner.app.control_socket import ask
from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from fsm_runner.protocol.approvals import ApprovalList, Decided
from tests.support.program import environment, finish, program
from tests.support.repositories import AUTHOR, commit_all, git, new_repository
from tests.support.runner import System, open_system
from tests.support.workflow_home import AGENT, NEEDS_BOTH_PARTS, NEEDS_TWO_LINES, workflow_home, write_program

PROMPT = "Write."


@asynccontextmanager
async def following(folder: Path, workflow: str, **overrides: Any) -> AsyncIterator[System]:
    """A runner whose runs follow a workflow."""
    profile = workflow_home(folder / "home", workflow)
    async with open_system(folder) as system, system.running(profile, **overrides):
        yield system


async def test_fix_until_green(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    write_program(tmp_path / "project" / "verify", NEEDS_TWO_LINES)
    async with following(tmp_path, "fix-until-green") as system:
        run = await system.submit(AGENT, prompt=PROMPT)
        ended = await system.end(run)
    assert ended.status == "completed", ended.error
    assert (tmp_path / "project" / "lines").read_text() == "line\n" * 2


async def test_fix_until_green_gives_up(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    write_program(tmp_path / "project" / "verify", "#!/bin/sh\necho still broken; exit 1\n")
    async with following(tmp_path, "fix-until-green") as system:
        ended = await system.end(await system.submit(AGENT, prompt=PROMPT))
    assert ended.status == "failed" and ended.error is not None
    assert ended.error.startswith("./verify still fails after 4 corrections: ") and "still broken" in ended.error
    assert (tmp_path / "project" / "lines").read_text() == "line\n" * 5


@pytest.mark.parametrize("approved", [True, False])
async def test_approve_first(tmp_path: Path, approved: bool) -> None:
    async with following(tmp_path, "approve-first", state_dir=tmp_path / "state") as system:
        run = await system.submit(AGENT, prompt=PROMPT)
        await system.state(run, "waiting")
        (socket,) = (tmp_path / "state").glob("*/control.sock")
        while not (listed := await ask(socket, ListApprovals(), ApprovalList)) or not listed.approvals:
            pass
        await ask(socket, Decide(run_id=run.run_id, approved=approved, comment="for now"), Decided)
        ended = await system.end(run)
    done = tmp_path / "project" / "done"
    assert done.exists() == approved
    if approved:
        assert ended.status == "completed"
        assert all(part in done.read_text() for part in ("for now", PROMPT, "the plan"))
    else:
        assert ended.status == "failed"
        assert ended.error is not None and "for now" in ended.error


async def test_draft_and_review(tmp_path: Path) -> None:
    async with following(tmp_path, "draft-and-review") as system:
        run = await system.submit(AGENT, prompt=PROMPT)
        ended = await system.end(run)
        result = await system.api.session_result(run.session_id)
        runs = await system.api.runs()
    assert ended.status == "completed", ended.error
    assert result.result_text == "second version"
    assert "revise it" in (tmp_path / "project" / "revised").read_text()
    reviews = [each for each in runs if each.parent_session_id == run.session_id]
    assert [(each.agent_name, each.status) for each in reviews] == [(AGENT, "completed")] * 2


async def test_fan_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = project_with_parts(tmp_path, monkeypatch)
    async with following(tmp_path, "fan-out") as system:
        run = await system.submit(AGENT, prompt=PROMPT)
        ended = await system.end(run)
    assert ended.status == "completed", ended.error
    places = [(project / name).read_text().strip() for name in ("one", "two")]
    assert len({*places, str(project)}) == 3
    assert git(project, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert git(project, "branch", "--format=%(refname:short)") == "main"
    assert git(project, "status", "--porcelain") == ""


async def test_fan_out_starts_no_child_if_git_has_no_author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project_with_parts(tmp_path, monkeypatch)
    (tmp_path / ".gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    async with following(tmp_path, "fan-out") as system:
        run = await system.submit(AGENT, prompt=PROMPT)
        ended = await system.end(run)
        assert [each.run_id for each in await system.api.runs()] == [run.run_id]
    assert ended.status == "failed"
    assert ended.error is not None and "tell me who you are" in ended.error


async def test_fan_out_with_fsm_runner_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = project_with_parts(tmp_path, monkeypatch)
    workflow_home(tmp_path / "home")
    command = ("run", AGENT, f"prompt={PROMPT}", "--workflow", "fan-out", "--project-dir", str(project))
    ended = await finish(tmp_path, environment(tmp_path / "home", HOME=str(tmp_path)), *command)
    assert ended.code == EXIT_OK, ended.stderr
    assert (project / "one").exists() and (project / "two").exists()


@pytest.mark.parametrize("workflow", ["fix-until-green", "draft-and-review"])
async def test_with_fsm_runner_run(tmp_path: Path, workflow: str) -> None:
    workflow_home(tmp_path / "home")
    write_program(tmp_path / "verify", NEEDS_TWO_LINES)
    command = ("run", AGENT, f"prompt={PROMPT}", "--workflow", workflow)
    ended = await finish(tmp_path, environment(tmp_path / "home"), *command)
    assert ended.code == EXIT_OK, ended.stderr
    assert "version" in ended.stdout


async def test_approve_first_with_fsm_runner_run(tmp_path: Path) -> None:
    workflow_home(tmp_path / "home")
    env = environment(tmp_path / "home", TMPDIR=str(tmp_path))
    command = ("run", AGENT, f"prompt={PROMPT}", "--workflow", "approve-first")
    async with program(tmp_path, env, *command) as running:
        said = await running.said("waiting: ask: waits for fsm-runner approve run_")
        run_id = next(word for word in said.split() if word.startswith("run_"))
        shown = await finish(tmp_path, env, "approvals", run_id)
        assert (shown.code, shown.stderr) == (EXIT_OK, "")
        assert shown.stdout == f"May the agent carry out this plan?\n\nTask: {PROMPT}\n\nPlan: the plan\n\n"
        assert (await finish(tmp_path, env, "approvals", "run_other")).code == EXIT_USAGE
        assert (await finish(tmp_path, env, "approve", run_id)).code == EXIT_OK
        assert await running.exit_code() == EXIT_OK
    assert (tmp_path / "done").exists()


async def test_a_project_without_verify_fails_before_the_agent_works(tmp_path: Path) -> None:
    async with following(tmp_path, "fix-until-green") as system:
        ended = await system.end(await system.submit(AGENT, prompt=PROMPT))
    assert ended.error is not None and "has no executable file `verify`" in ended.error
    assert not (tmp_path / "project" / "lines").exists()


def project_with_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose `verify` needs the files of both parts, and an author for git."""
    project = new_repository(folder / "project")
    write_program(project / "verify", NEEDS_BOTH_PARTS)
    commit_all(project)
    monkeypatch.setenv("HOME", str(folder))
    (folder / ".gitconfig").write_text(
        f"[user]\nname = {AUTHOR['GIT_AUTHOR_NAME']}\nemail = {AUTHOR['GIT_AUTHOR_EMAIL']}\n"
    )
    return project
