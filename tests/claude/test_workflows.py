"""The bundled workflows with the real program: with an embedded coordinator, and with `fsm-runner run`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fsm_runner.app.control_requests import Decide, ListApprovals
from fsm_runner.app.control_socket import ask
from fsm_runner.errors import EXIT_OK
from fsm_runner.protocol.approvals import ApprovalList, Decided
from tests.support.claude import ClaudeBench, claude, claude_environment
from tests.support.messages_api import Calls, MessagesApi, Says, messages_api
from tests.support.program import finish, program
from tests.support.repositories import AUTHOR, commit_all, git, new_repository
from tests.support.workflow_home import write_program

PROMPT = "Create the files."
COMMENT = "Go on."
"""The comment of the person who approves the plan."""


def writes(name: str) -> Calls:
    return Calls("Bash", {"command": f"echo {name} > {name}"})


def answers(data: str) -> Says:
    return Says(f"Here it is.\n\n```json\n{data}\n```")


# Each of these prepares the project and the answers of the model, and yields the messages of the agent that the session
# of the run must have; the last one is the result. At its end it checks what the model was asked, and the project.


@contextmanager
def fix_until_green(project: Path, api: MessagesApi) -> Iterator[list[str]]:
    write_program(project / "verify", "#!/bin/sh\necho looking for good\ntest -e good\n")
    api.will(writes("bad"), Says("I think it is done."), writes("good"), Says("It is done."))
    yield ["I think it is done.", "It is done."]
    last = api.asked[-1]
    assert last.prompts[0] == PROMPT
    assert "./verify checks your work, and it failed" in last.prompts[1]
    assert "looking for good" in last.prompts[1]


@contextmanager
def approve_first(project: Path, api: MessagesApi) -> Iterator[list[str]]:
    api.will(Says("I will create a file."), writes("good"), Says("It is done."))
    yield ["I will create a file.", "It is done."]
    assert (project / "good").exists()
    assert f"The plan is approved. Carry it out. {COMMENT}" in api.asked[-1].prompts[1]


@contextmanager
def draft_and_review(_: Path, api: MessagesApi) -> Iterator[list[str]]:
    api.will(
        Says("first version"),
        answers('{"verdict": "revise", "comments": "It is too short."}'),
        Says("second version"),
        answers('{"verdict": "accept", "comments": ""}'),
    )
    yield ["first version", "second version"]
    draft, first_review, revision, second_review = api.asked
    assert draft.prompts == [PROMPT]
    # A review is a conversation of its own.
    assert len(first_review.prompts) == 1 and "first version" in first_review.prompts[0]
    assert revision.prompts[0] == PROMPT and "It is too short." in revision.prompts[1]
    assert len(second_review.prompts) == 1 and "second version" in second_review.prompts[0]


@contextmanager
def fan_out(project: Path, api: MessagesApi) -> Iterator[list[str]]:
    new_repository(project)
    write_program(project / "verify", "#!/bin/sh\ncat part other\n")
    commit_all(project)
    (project.parent / ".gitconfig").write_text(
        f"[user]\nname = {AUTHOR['GIT_AUTHOR_NAME']}\nemail = {AUTHOR['GIT_AUTHOR_EMAIL']}\n"
    )
    plan = answers('{"parts": ["Create the file part."]}')
    api.will(plan, writes("part"), Says("The part is done."), writes("other"), Says("All is done."))
    yield [plan.text, "All is done."]
    assert git(project, "log", "-1", "--format=%s", "--", "part").startswith("Create the file part.")
    assert (project / "part").exists() and (project / "other").exists()
    part = api.asked[1]
    assert len(part.prompts) == 1 and part.prompts[0].startswith("Create the file part.")
    assert "other: No such file" in api.asked[-1].prompts[1]


Script = Callable[[Path, MessagesApi], AbstractContextManager[list[str]]]
SCRIPTS: dict[str, Script] = {
    "fix-until-green": fix_until_green,
    "draft-and-review": draft_and_review,
    "fan-out": fan_out,
}


def following(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> AbstractAsyncContextManager[ClaudeBench]:
    return claude(folder, monkeypatch, keys={"workflow": name}, config={"permission_mode": "bypassPermissions"})


def run_command(folder: Path, workflow: str) -> list[str]:
    (folder / "project").mkdir()
    where = ["--profile", "quick", "--project-dir", str(folder / "project")]
    return ["run", *where, "--prompt", PROMPT, "--workflow", workflow]


@pytest.mark.parametrize("workflow", SCRIPTS)
async def test_with_an_embedded_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workflow: str) -> None:
    async with following(tmp_path, monkeypatch, workflow) as bench:
        with SCRIPTS[workflow](bench.project, bench.api) as said:
            run = await bench.start(PROMPT)
            assert await bench.completes(run) == said[-1]
        kinds = bench.reported(run)
        assert [kinds.count(kind) for kind in ("started", "bind", "result", "completed")] == [1] * 4
        messages = await bench.messages(run)
        assert [role for role, _ in messages] == ["user", "assistant", "user", "assistant"]
        assert [text for _, text in messages[1::2]] == said


@pytest.mark.parametrize("workflow", SCRIPTS)
async def test_with_fsm_runner_run(tmp_path: Path, workflow: str) -> None:
    command = run_command(tmp_path, workflow)
    async with messages_api() as api:
        with SCRIPTS[workflow](tmp_path / "project", api) as said:
            ended = await finish(tmp_path, claude_environment(api, tmp_path), *command)
            assert (ended.code, ended.stdout) == (EXIT_OK, f"{said[-1]}\n"), ended.stderr


async def test_approve_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(tmp_path, monkeypatch, "approve-first") as bench:
        with approve_first(bench.project, bench.api) as said:
            run = await bench.start(PROMPT)
            await bench.system.state(run, "waiting")
            (socket,) = (tmp_path / "state").glob("*/control.sock")
            while not (listed := await ask(socket, ListApprovals(), ApprovalList)) or not listed.approvals:
                pass
            assert "I will create a file." in listed.approvals[0].question
            assert not (bench.project / "good").exists()
            await ask(socket, Decide(run_id=run.run_id, approved=True, comment=COMMENT), Decided)
            assert await bench.completes(run) == said[-1]


async def test_approve_first_with_fsm_runner_run(tmp_path: Path) -> None:
    command, printed = run_command(tmp_path, "approve-first"), tmp_path / "printed"
    async with messages_api() as api:
        # The commands look for the sockets of `run` in the folder for temporary files.
        env = {**claude_environment(api, tmp_path), "TMPDIR": str(tmp_path)}
        with approve_first(tmp_path / "project", api) as said, printed.open("wb") as stdout:
            async with program(tmp_path, env, *command, stdout=stdout.fileno()) as running:
                line = await running.said("ask: waits for fsm-runner approve run_")
                run_id = next(word for word in line.split() if word.startswith("run_"))
                listed = await finish(tmp_path, env, "approvals")
                assert listed.code == EXIT_OK, listed.stderr
                assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [
                    [run_id, "approve-first", "ask"]
                ]
                shown = await finish(tmp_path, env, "approvals", run_id)
                assert "I will create a file." in shown.stdout
                assert len(api.asked) == 1
                approved = await finish(tmp_path, env, "approve", run_id, "--comment", COMMENT)
                assert (approved.code, approved.stderr.startswith(f"{run_id} is approved by ")) == (EXIT_OK, True)
                assert await running.exit_code() == EXIT_OK, running.lines
            assert printed.read_text() == f"{said[-1]}\n"
