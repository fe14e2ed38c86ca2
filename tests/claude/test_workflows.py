"""The bundled workflows with the real program."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from fsm_runner.app.control_requests import Decide, ListApprovals
from fsm_runner.app.control_socket import ask
from fsm_runner.protocol.approvals import ApprovalList, Decided
from tests.support.claude import ClaudeBench, claude
from tests.support.messages_api import Calls, Says
from tests.support.repositories import AUTHOR, commit_all, new_repository
from tests.support.workflow_home import write_program


def following(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> AbstractAsyncContextManager[ClaudeBench]:
    return claude(folder, monkeypatch, keys={"workflow": name}, config={"permission_mode": "bypassPermissions"})


def writes(name: str) -> Calls:
    return Calls("Bash", {"command": f"echo {name} > {name}"})


def answers(data: str) -> Says:
    return Says(f"Here it is.\n\n```json\n{data}\n```")


async def test_fix_until_green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(tmp_path, monkeypatch, "fix-until-green") as bench:
        write_program(bench.project / "verify", "#!/bin/sh\necho looking for good\ntest -e good\n")
        bench.api.will(writes("bad"), Says("I think it is done."), writes("good"), Says("It is done."))
        run = await bench.start("Create the file.")
        assert await bench.completes(run) == "It is done."
        kinds = bench.reported(run)
        assert [kinds.count(kind) for kind in ("started", "bind", "result", "completed")] == [1] * 4
        messages = await bench.messages(run)
        assert [role for role, _ in messages] == ["user", "assistant", "user", "assistant"]
        assert [text for _, text in messages[1::2]] == ["I think it is done.", "It is done."]
    last = bench.api.asked[-1]
    assert last.prompts[0] == "Create the file."
    assert "./verify checks your work, and it failed" in last.prompts[1]
    assert "looking for good" in last.prompts[1]


async def test_approve_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(tmp_path, monkeypatch, "approve-first") as bench:
        bench.api.will(Says("I will create a file."), writes("good"), Says("It is done."))
        run = await bench.start("Create the file.")
        await bench.system.state(run, "waiting")
        (socket,) = (tmp_path / "state").glob("*/control.sock")
        while not (listed := await ask(socket, ListApprovals(), ApprovalList)) or not listed.approvals:
            pass
        assert "I will create a file." in listed.approvals[0].question
        assert not (bench.project / "good").exists()
        await ask(socket, Decide(run_id=run.run_id, approved=True, comment="Go on."), Decided)
        assert await bench.completes(run) == "It is done."
        assert (bench.project / "good").exists()
    assert "The plan is approved. Carry it out. Go on." in bench.api.asked[-1].prompts[1]


async def test_draft_and_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(tmp_path, monkeypatch, "draft-and-review") as bench:
        bench.api.will(
            Says("first version"),
            answers('{"verdict": "revise", "comments": "It is too short."}'),
            Says("second version"),
            answers('{"verdict": "accept", "comments": ""}'),
        )
        run = await bench.start("Write a text.")
        assert await bench.completes(run) == "second version"
    draft, first_review, revision, second_review = bench.api.asked
    assert draft.prompts == ["Write a text."]
    # A review is a conversation of its own.
    assert len(first_review.prompts) == 1 and "first version" in first_review.prompts[0]
    assert revision.prompts[0] == "Write a text." and "It is too short." in revision.prompts[1]
    assert len(second_review.prompts) == 1 and "second version" in second_review.prompts[0]


async def test_fan_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = new_repository(tmp_path / "project")
    write_program(project / "verify", "#!/bin/sh\ncat part other\n")
    commit_all(project)
    (tmp_path / ".gitconfig").write_text(
        f"[user]\nname = {AUTHOR['GIT_AUTHOR_NAME']}\nemail = {AUTHOR['GIT_AUTHOR_EMAIL']}\n"
    )
    async with following(tmp_path, monkeypatch, "fan-out") as bench:
        bench.api.will(answers('{"parts": ["Create the file part."]}'), writes("part"), Says("The part is done."))
        bench.api.will(writes("other"), Says("All is done."))
        run = await bench.start("Create the files.")
        assert await bench.completes(run) == "All is done."
        assert (project / "part").exists() and (project / "other").exists()
    part = bench.api.asked[1]
    assert len(part.prompts) == 1 and part.prompts[0].startswith("Create the file part.")
    assert "other: No such file" in bench.api.asked[-1].prompts[1]
