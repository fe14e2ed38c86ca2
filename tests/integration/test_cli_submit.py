"""`coordinator`, `submit`, `runs` and `stop`, as separate processes."""

import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from tests.support.home import PROFILE, make_home
from tests.support.program import Finished, environment, finish, program
from tests.support.runner import waiter


class Programs:
    """A coordinator and a runner, each a process."""

    def __init__(self, folder: Path, url: str, env: dict[str, str]) -> None:
        self.folder = folder
        self.url = url
        self.env = env

    async def does(self, *arguments: str) -> Finished:
        return await finish(self.folder, {**self.env, "AGENT_ORCHESTRATOR_API_URL": self.url}, *arguments)


@asynccontextmanager
async def running_programs(
    folder: Path, bundled_profile: str | None = None, *, state_dir: Path | None = None
) -> AsyncIterator[Programs]:
    """Without a bundled profile the runner has the agents that are made for tests."""
    make_home(folder / "home")
    env = environment(None if bundled_profile else folder / "home")
    async with program(folder, env, "coordinator", "--port", "0") as coordinator:
        found = re.search(r"http://[\d.:]+", await coordinator.said("Coordinator at"))
        assert found is not None
        url = found[0]
        state = ("--state-dir", str(state_dir)) if state_dir else ()
        async with program(folder, env, "--profile", bundled_profile or PROFILE, "-c", url, *state) as runner:
            await runner.said("registered")
            yield Programs(folder, url, env)
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
        coordinator.terminate()
        assert await coordinator.exit_code() == EXIT_OK


async def test_runs_are_submitted_listed_and_stopped(tmp_path: Path) -> None:
    async with running_programs(tmp_path) as programs, waiter(tmp_path) as command:
        waited = await programs.does("submit", "say", "text=hello", "--wait")
        assert (waited.code, waited.stdout) == (EXIT_OK, '{"said": "hello"}\n')
        assert re.fullmatch(r"(run_\w+) of ses_\w+ is submitted; to stop it: fsm-runner stop \1\n", waited.stderr), (
            waited.stderr
        )

        words = [f"{key}={value}" for key, value in command.parameters.items()]
        created = json.loads((await programs.does("submit", "wait", *words)).stdout)
        assert created.keys() == {"run_id", "session_id", "status"}
        await command.started.pid()

        table = (await programs.does("runs")).stdout.splitlines()
        assert table[0].split() == ["RUN", "STATUS", "AGENT", "SESSION", "CREATED", "ERROR"]
        assert [line.split()[1:3] for line in table[1:]] == [["completed", "say"], ["running", "wait"]]
        listed = (await programs.does("runs", "--json", "--status", "running")).stdout.splitlines()
        assert [json.loads(line)["run_id"] for line in listed] == [created["run_id"]]

        assert (await programs.does("stop", created["run_id"])).code == EXIT_OK
        failed = await programs.does("submit", "fail", "code=2", "--wait")
        assert failed.code == EXIT_FAILED
        assert "it broke" in failed.stderr
        listed = (await programs.does("runs", "--status", "failed")).stdout.splitlines()
        assert listed[1].endswith("  it broke (exit code 2)")


async def test_no_command_lets_a_run_control_the_terminal(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    async with running_programs(tmp_path, state_dir=tmp_path / "state") as programs:
        waited = await programs.does("submit", "fail-in-colour", "where=a\u009bplace", "--wait")
        assert r"it \x1b]0;owned\x07broke\x1b[31m in a\x9bplace" in waited.stderr
        run_id = waited.stderr.split()[0]
        seen = [waited, *[await programs.does(*words) for words in (("runs",), ("runs", "--json"))]]
        seen += [await programs.does("history", *words, *state) for words in ((run_id,), (run_id, "--json"))]
        seen.append(await programs.does("run", "fail-in-colour", "where=a\u009bplace", "--profile", PROFILE))
    assert all("broke" in each.stdout + each.stderr for each in seen)
    assert [each for each in seen if re.search("[\x1b\x07\x9b]", each.stdout + each.stderr)] == []
    assert "\x1b[31m" in json.loads(seen[2].stdout)["error"]


async def test_the_password_of_a_coordinators_url_is_not_shown(tmp_path: Path) -> None:
    async with running_programs(tmp_path) as programs:
        url = programs.url.replace("://", "://me:s3cret-pass@")
        waited = await finish(tmp_path, programs.env, "submit", "say", "text=hello", "--wait", "-c", url)
    assert (waited.code, waited.stdout) == (EXIT_OK, '{"said": "hello"}\n')
    assert f"-c {programs.url.replace('://', '://me:***@')}\n" in waited.stderr
    assert "s3cret-pass" not in waited.stderr


@pytest.mark.parametrize(
    "login", ["me:s3cret pass@", "me:s3cret/pass@", "me:s3cret#pass@", "me:s3cret?pass@", "me:s3cret@pass:@"]
)
async def test_an_invalid_url_is_reported_without_its_password(tmp_path: Path, login: str) -> None:
    for scheme in ("http://", ""):
        ended = await finish(tmp_path, environment(None), "runs", "-c", f"{scheme}{login}127.0.0.1:x")
        assert ended.code == EXIT_USAGE
        assert f"--coordinator-url: '{scheme}***@127.0.0.1:x': expected http://HOST[:PORT]" in ended.stderr
        assert "are percent-encoded" in ended.stderr
        assert "s3cret" not in ended.stderr


async def test_a_session_continues_with_the_printed_command(tmp_path: Path) -> None:
    async with running_programs(tmp_path, "echo-session") as programs:
        turn = await programs.does("submit", "--prompt", "hello", "--profile", "echo-session", "--wait")
        for prompt in ("again", "and again"):
            assert turn.code == EXIT_OK, turn.stderr
            go_on = re.search(r"^to continue: fsm-runner (.*)$", turn.stderr, re.MULTILINE)
            assert go_on is not None, turn.stderr
            turn = await programs.does(*(prompt if word == "…" else word for word in shlex.split(go_on[1])))
            assert (turn.code, turn.stdout) == (EXIT_OK, f"{prompt}\n"), turn.stderr


async def test_a_refusal_is_reported_on_one_line(tmp_path: Path) -> None:
    async with running_programs(tmp_path) as programs:
        for arguments, named in (
            (("submit", "nobody"), "nobody"),
            (("stop", "run_nowhere"), "run_nowhere"),
            (("stop", "../runs"), "../runs"),
        ):
            ended = await programs.does(*arguments)
            assert ended.code == EXIT_USAGE
            assert named in ended.stderr
            assert ended.stderr.count("\n") == 1


async def test_an_unreachable_coordinator_is_reported(tmp_path: Path) -> None:
    for arguments in (("runs",), ("stop", "run_1"), ("submit", "say")):
        ended = await finish(tmp_path, environment(None), *arguments, "-c", "http://127.0.0.1:9")
        assert ended.code == EXIT_FAILED
        assert "http://127.0.0.1:9" in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert "Traceback" not in ended.stderr
