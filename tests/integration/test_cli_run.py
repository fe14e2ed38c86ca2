"""`fsm-runner run` and the runner with its own coordinator, as processes."""

import asyncio
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import socket
import sys
from pathlib import Path

import pytest

from fsm_runner.cli import run as cli_run
from fsm_runner.cli.submission import create_run
from fsm_runner.config.settings import LOCAL_COORDINATOR_URL, RunnerConfig
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.server import DEFAULT_HOST, DEFAULT_PORT
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from fsm_runner.protocol.wire import RunCreated, RunRequest
from fsm_runner.runtime.actors.runner import RunnerActor
from tests.support.command_executor import AGENT, command_home
from tests.support.default_port import default_port
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import environment, finish, program
from tests.support.runner import waiter
from tests.support.terminal import on_terminal

__all__ = ["default_port"]

FULL_DEVICE = Path("/dev/full")
PROCESSES = 4
TERMINAL_BYTES = 64 * 1024

WAITER = f"""#!{sys.executable}
import fsm_executor

async def main(session):
    await session.bind("c1")
    async for turn in session.turns():
        await session.metadata(status_detail="waits for the\\x1b[31m tide and " + turn.prompt)
        await turn.complete("done")

fsm_executor.run(main, name="waiter", version="1.0")
"""
"""An executor that reports a status detail."""


async def test_run_prints_the_result_and_nothing_else(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "say", "text=hello")
    assert (ended.code, ended.stdout, ended.stderr) == (EXIT_OK, '{"said": "hello"}\n', "")


async def test_run_finds_the_bundled_agents_from_any_directory(tmp_path: Path) -> None:
    ended = await finish(tmp_path, environment(None), "run", "echo", "message=hello")
    assert (ended.code, ended.stdout) == (EXIT_OK, '{"message": "hello"}\n')


async def test_run_says_why_a_run_failed(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "fail", "code=3")
    assert ended.code == EXIT_FAILED
    assert "it broke" in ended.stderr
    assert all(isinstance(json.loads(line), dict) for line in ended.stdout.splitlines())


async def test_run_shows_the_states_on_a_terminal(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    ours, theirs = pty.openpty()
    try:
        ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "say", "text=hi", stderr=theirs)
        shown = os.read(ours, TERMINAL_BYTES).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.stdout == '{"said": "hi"}\n'
    places = [shown.index(state) for state in ("claimed", "preparing workspace", "executing", "reporting", "completed")]
    assert places == sorted(places)
    assert " s" in shown


def make_waiter_home(home: Path) -> None:
    executor = home / "executors" / "waiter"
    for folder in (executor.parent, home / "profiles"):
        folder.mkdir(parents=True)
    executor.write_text(WAITER)
    executor.chmod(0o755)
    profile = {"type": "autonomous", "command": "executors/waiter", "lifecycle": "persistent"}
    (home / "profiles" / "waiter.json").write_text(json.dumps(profile))


async def test_run_shows_the_status_details_of_its_executor(tmp_path: Path) -> None:
    make_waiter_home(tmp_path / "home")
    env = environment(tmp_path / "home", AUTH0_CLIENT_SECRET="the-secret")
    ended = await finish(tmp_path, env, "run", "--profile", "waiter", "--prompt", "the-secret")
    assert (ended.code, ended.stdout) == (EXIT_OK, "done\n")
    (detail,) = ended.stderr.splitlines()
    assert detail.startswith("executing: waits for the\\x1b[31m tide and ")
    assert "the-secret" not in detail


async def test_a_status_detail_stands_above_the_line_of_its_state_on_a_terminal(tmp_path: Path) -> None:
    make_waiter_home(tmp_path / "home")
    command = shlex.join([sys.executable, "-m", "fsm_runner", "run", "--profile", "waiter", "--prompt", "wind"])
    async with on_terminal(command, tmp_path, environment(tmp_path / "home")) as shown:
        lines = (await shown.ends()).split("\n")
    at = next(index for index, line in enumerate(lines) if "tide" in line)
    # The carriage return puts the detail in the place of the state, which is as long or shorter.
    state, detail = lines[at].split("\r")
    assert state == f"{'executing':<20}"
    assert detail == "waits for the\\x1b[31m tide and wind"
    assert re.fullmatch(r"executing +[\d.]+ s", lines[at + 1])


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full")
async def test_a_result_that_cannot_be_written_is_no_success(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    full = os.open(FULL_DEVICE, os.O_WRONLY)
    try:
        ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "say", "text=x", stdout=full)
    finally:
        os.close(full)
    assert ended.code == EXIT_FAILED
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


async def test_run_stops_its_command_on_a_signal(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    env = environment(tmp_path / "home")
    async with waiter(tmp_path) as command:
        words = [f"{key}={value}" for key, value in command.parameters.items()]
        async with program(tmp_path, env, "run", "wait", *words) as running:
            pid = await command.started.pid()
            running.process.send_signal(signal.SIGINT)
            assert await running.exit_code() == EXIT_FAILED
            await gone(pid)
            assert any("stopped" in line for line in running.lines)
            assert not any("Traceback" in line for line in running.lines)


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (None, r"error: run run_\w+ was stopped before it began\n"),
        # The agent has gone with the runner, so the coordinator refuses the run.
        (AGENT, r"error: stopped before the run began\n"),
    ],
)
async def test_a_run_that_is_stopped_before_it_began_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, agent: str | None, said: str
) -> None:
    has_left = asyncio.Event()
    leave = RunnerActor._deregister

    async def deregister(runner: RunnerActor) -> None:
        await leave(runner)
        has_left.set()

    async def interrupted(api: CoordinatorApi, request: RunRequest) -> RunCreated:
        os.kill(os.getpid(), signal.SIGINT)
        await has_left.wait()
        return await create_run(api, request)

    monkeypatch.setattr(RunnerActor, "_deregister", deregister)
    monkeypatch.setattr(cli_run, "create_run", interrupted)
    request = RunRequest(type="start_session", agent_name=agent, parameters={"prompt": "x"}, project_dir=str(tmp_path))
    code = await cli_run._run(RunnerConfig(project_dir=tmp_path), command_home(tmp_path / "home"), request)
    assert code == EXIT_FAILED
    assert re.fullmatch(said, capsys.readouterr().err)


async def test_a_signal_before_the_runner_is_registered_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: RunnerActor) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(RunnerActor, "wait_for_registration", interrupted)
    request = RunRequest(type="start_session", parameters={"prompt": "x"}, project_dir=str(tmp_path))
    code = await cli_run._run(RunnerConfig(project_dir=tmp_path), command_home(tmp_path / "home"), request)
    assert (code, capsys.readouterr().err) == (EXIT_FAILED, "error: stopped before the run began\n")


async def test_run_keeps_its_journal_for_itself_and_no_longer_than_it_lasts(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    temporary, state = tmp_path / "temporary", tmp_path / "state"
    temporary.mkdir()
    env = environment(tmp_path / "home") | {"TMPDIR": str(temporary), "STATE_DIR": str(state)}
    async with waiter(tmp_path) as command:
        words = [f"{key}={value}" for key, value in command.parameters.items()]
        async with program(tmp_path, env, "run", "wait", *words) as running:
            await command.started.pid()
            assert len(list(temporary.glob("fsm-runner-run-*/*/journal.sqlite"))) == 1
            running.process.send_signal(signal.SIGINT)
            await running.exit_code()
    assert not list(temporary.iterdir())
    assert not state.exists()


async def test_a_key_of_a_profile_that_means_nothing_is_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    home.path.write_text(home.path.read_text().replace("{", '{"cofig": {}, ', 1))
    ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "say", "text=x")
    assert (ended.code, ended.stdout) == (EXIT_OK, '{"said": "x"}\n')
    assert f"{home.path}: cofig: unknown key" in ended.stderr


async def test_a_runner_without_a_coordinator_brings_one_and_says_how_to_submit(
    tmp_path: Path, default_port: None
) -> None:
    make_home(tmp_path / "home")
    env = environment(tmp_path / "home")
    async with program(tmp_path, env, "--profile", PROFILE) as runner:
        assert LOCAL_COORDINATOR_URL.rsplit(":")[-1] in await runner.said("a coordinator serves at")
        await runner.said("fsm-runner submit say")
        await runner.said("registered")
        submitted = await finish(tmp_path, env, "submit", "say", "text=over here", "--wait")
        assert (submitted.code, submitted.stdout) == (EXIT_OK, '{"said": "over here"}\n'), submitted.stderr
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK


async def test_a_runner_whose_coordinator_finds_its_port_taken_says_so(tmp_path: Path, default_port: None) -> None:
    make_home(tmp_path / "home")
    with socket.socket() as taken:
        # Connections of a test before this one may still be known to the system.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another process has the port, which serves as well
            taken.bind((DEFAULT_HOST, DEFAULT_PORT))
            taken.listen()
        ended = await finish(tmp_path, environment(tmp_path / "home"), "--profile", PROFILE)
    assert ended.code == EXIT_USAGE
    assert f"port {DEFAULT_PORT}" in ended.stderr
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_runs_in_parallel_processes_do_not_disturb_each_other(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    env = environment(tmp_path / "home")
    ended = await asyncio.gather(*(finish(tmp_path, env, "run", "say", f"text={each}") for each in range(PROCESSES)))
    assert [each.stdout for each in ended] == [f'{{"said": "{each}"}}\n' for each in range(PROCESSES)]
