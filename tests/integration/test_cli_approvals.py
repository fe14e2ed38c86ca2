"""`fsm-runner approvals` and `fsm-runner approve` with a runner and a coordinator, as separate processes."""

import asyncio
import getpass
import itertools
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.app.control_requests import ListApprovals
from fsm_runner.app.control_socket import OWN_REQUEST, SOCKET_FILE, ask_all
from fsm_runner.app.local_socket import sockets
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of
from fsm_runner.protocol.approvals import COMMENT_LIMIT_CHARS, ApprovalList, ListedApproval
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import Run, RunRequest
from tests.support.approval_home import make_approval_home
from tests.support.home import COMMANDS, PROFILE
from tests.support.program import REPOSITORY, Finished, environment, finish, program
from tests.support.watch import PATIENCE_S

DECIDES = f"""export PYTHONPATH={REPOSITORY}
exec {sys.executable} -m fsm_runner approve "$2" --state-dir "$4" 2>&1"""


class Programs:
    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    async def does(self, *arguments: str) -> Finished:
        return await finish(self.folder, own_environment(self.folder), *arguments)

    async def submit(self, agent: str, **parameters: str) -> str:
        async with CoordinatorApi(self.url) as api:
            request = RunRequest(type="start_session", agent_name=agent, parameters=dict(parameters))
            return (await api.create_run(request)).run_id

    async def approvals(self, *flags: str) -> Finished:
        return await self.does("approvals", "--state-dir", str(self.folder / "state"), *flags)

    async def approve(self, run_id: str, *flags: str) -> Finished:
        return await self.does("approve", run_id, "--state-dir", str(self.folder / "state"), *flags)

    async def until_pending(self, run_id: str) -> ListedApproval:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answers = await ask_all(sockets(self.folder / "state", SOCKET_FILE), ListApprovals(), ApprovalList)
                lists = [each.approvals for each in answers.values() if isinstance(each, ApprovalList)]
                if found := [each for each in itertools.chain(*lists) if each.run_id == run_id]:
                    return found[0]
                await asyncio.sleep(0.05)

    async def end(self, run_id: str) -> Run:
        async with asyncio.timeout(PATIENCE_S), CoordinatorApi(self.url) as api:
            while (run := await api.run(run_id)).status not in TERMINAL_RUN_STATUSES:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            return run


def own_environment(folder: Path, home: Path | None = None) -> dict[str, str]:
    """Without the `fsm-runner run` of other tests, which have their sockets in the folder for temporary files."""
    (folder / "tmp").mkdir(exist_ok=True)
    return environment(home, TMPDIR=str(folder / "tmp"))


@asynccontextmanager
async def running_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Programs]:
    """The agent `say` asks for an approval, and the agent `decide` decides about the run of another one."""
    monkeypatch.setitem(COMMANDS, "decide", DECIDES)
    monkeypatch.setitem(COMMANDS, "say-again", COMMANDS["say"])
    home = folder / "home"
    agent = make_approval_home(home).agent_files["say-again"]
    agent.write_text(json.dumps({**json.loads(agent.read_text()), "workflow": "ask-first"}))
    env = own_environment(folder, home)
    async with program(folder, env, "coordinator", "--port", "0") as coordinator:
        found = re.search(r"http://[\d.:]+", await coordinator.said("Coordinator at"))
        assert found is not None
        flags = ("--profile", PROFILE, "-c", found[0], "--state-dir", str(folder / "state"))
        async with program(folder, env, *flags) as runner:
            await runner.said("the workflow asks for approvals, and executors run as the user of this runner")
            await runner.said("registered")
            assert len([line for line in runner.lines if "the workflow asks for approvals" in line]) == 1
            assert not sys.platform.startswith("linux") or rlimit_tag_of(runner.process.pid) is not None
            yield Programs(folder, found[0])


async def test_approvals_are_listed_and_decided_once_but_not_by_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = getpass.getuser()
    async with running_programs(tmp_path, monkeypatch) as programs:
        run_id, denied_id = [await programs.submit("say", text=text) for text in ("hello", "bye")]
        listed = await programs.until_pending(run_id)
        await programs.until_pending(denied_id)
        assert listed.question == "Say hello?\n\x1b[31mReally?"

        table = await programs.approvals()
        assert table.code == EXIT_OK
        header, row, _ = table.stdout.splitlines()
        assert header.split() == ["RUN", "WORKFLOW", "STATE", "QUESTION", "SINCE", "DEADLINE"]
        assert row.split()[:3] == [run_id, "ask-first", "ask"]
        assert r"Say hello? \x1b[31mReally?" in row
        assert "\x1b" not in table.stdout
        assert "no runner" not in table.stderr

        decider_id = await programs.submit("decide", run=run_id, state=str(tmp_path / "state"))
        assert OWN_REQUEST in str((await programs.end(decider_id)).error)

        answers = await asyncio.gather(
            programs.approve(run_id, "--comment", "fine \x1b[2J ${params.text}"), programs.approve(run_id, "--deny")
        )
        assert sorted(each.code for each in answers) == [EXIT_OK, EXIT_FAILED]
        won, lost = sorted(answers, key=lambda each: each.code)
        was_approved = won is answers[0]
        what = "approved" if was_approved else "denied"
        assert won.stderr == f"{run_id} is {what} by {user}\n"
        assert f"{run_id} was already {what} by {user} at " in lost.stderr
        assert "\x1b" not in lost.stderr
        run = await programs.end(run_id)
        assert run.status == ("completed" if was_approved else "failed")

        assert (await programs.approve(denied_id, "--deny", "--comment", "no")).code == EXIT_OK
        assert (await programs.end(denied_id)).error == f"denied by {user}: no"
        late = await programs.approve(denied_id)
        assert late.code == EXIT_FAILED
        found = re.search(rf"already denied by {user} at (\S+Z)", late.stderr)
        assert found is not None
        history = await programs.does("history", denied_id, "--state-dir", str(tmp_path / "state"))
        assert f"by {user} at {found[1]}" in history.stdout  # the one time of the decision

        unknown = await programs.approve("run_0", "-c", programs.url)
        assert (unknown.code, "waits for an approval of run_0" in unknown.stderr) == (EXIT_USAGE, True)
        too_long = await programs.approve(run_id, "--comment", "x" * (COMMENT_LIMIT_CHARS + 1))
        assert (too_long.code, "--comment" in too_long.stderr) == (EXIT_USAGE, True)


async def test_without_a_runner_there_is_nothing_to_decide(tmp_path: Path) -> None:
    programs = Programs(tmp_path, "")
    listed = await programs.approvals()
    assert listed.stdout == "RUN  WORKFLOW  STATE  QUESTION  SINCE  DEADLINE\n"
    assert f"no runner is at work with a journal in {tmp_path / 'state'}" in listed.stderr
    answer = await programs.approve("run_1")
    assert answer.code == EXIT_USAGE
    assert "waits for an approval of run_1" in answer.stderr
    assert "`fsm-runner history run_1` an earlier decision" in answer.stderr


async def test_run_says_what_it_asks_and_how_to_approve(tmp_path: Path) -> None:
    make_approval_home(tmp_path / "home")
    env = own_environment(tmp_path, tmp_path / "home")
    async with program(tmp_path, env, "run", "say", "text=hello") as running:
        line = await running.said("fsm-runner approve")
        await running.said(r"\x1b[31mReally?")
        assert not sys.platform.startswith("linux") or rlimit_tag_of(running.process.pid) is not None
        command, run_id = line.partition("fsm-runner ")[2].split()[:2]
        decided = await finish(tmp_path, env, command, run_id, "--deny", "--comment", "no")
        assert decided.code == EXIT_OK, decided.stderr
        assert await running.exit_code() == EXIT_FAILED
        assert f"denied by {getpass.getuser()}: no" in running.lines[-1]
