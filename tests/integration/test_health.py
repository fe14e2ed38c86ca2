"""The health check of a runner and `fsm-runner health`."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.app import health, local_socket
from fsm_runner.app.health import SOCKET_FILE, Health, query_all, serve_health
from fsm_runner.app.local_socket import sockets
from fsm_runner.cli.health import show_health
from fsm_runner.errors import EXIT_FAILED, EXIT_OK
from tests.support.home import PROFILE, make_home
from tests.support.logs import log_lines
from tests.support.program import Finished, Program, environment, finish, program
from tests.support.runner import System, open_system, waiter
from tests.support.watch import PATIENCE_S


@asynccontextmanager
async def runner_process(folder: Path) -> AsyncIterator[tuple[System, Program]]:
    make_home(folder / "home")
    async with open_system(folder) as system:
        flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--state-dir", str(folder / "state"))
        async with program(folder, environment(folder / "home"), *flags) as runner:
            await runner.said("online")
            yield system, runner


async def health_command(folder: Path) -> Finished:
    return await finish(folder, environment(None), "health", "--state-dir", str(folder / "state"))


async def test_a_healthy_runner_reports_its_state_and_runs(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, _), waiter(tmp_path) as held:
        assert (await health_command(tmp_path)).stdout.endswith(": online, 0 runs held\n")
        await system.submit("wait", **held.parameters)
        await held.started.pid()
        answer = await health_command(tmp_path)
        assert answer.code == EXIT_OK
        assert answer.stdout.endswith(": online, 1 run held\n")
        held.gate.write_line()


async def test_a_problem_makes_a_runner_unhealthy_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    async with serve_health(folder, lambda: Health("online", 1, "there is no watchdog")):
        assert await asyncio.to_thread(show_health, tmp_path) == EXIT_FAILED
    assert capsys.readouterr().out == "0123456789abcdef: online, 1 run held; there is no watchdog\n"


async def test_one_whose_coordinator_is_away_is_healthy(tmp_path: Path) -> None:
    async with runner_process(tmp_path) as (system, runner):
        system.proxy.upstream_url = "http://127.0.0.1:9"
        await system.proxy.cut()
        await runner.said("disconnected")
        answer = await health_command(tmp_path)
        assert (answer.code, answer.stdout.partition(": ")[2]) == (EXIT_OK, "disconnected, 0 runs held\n")


async def test_a_runner_that_hangs_is_unhealthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "ANSWER_LIMIT_S", 0.3)
    async with runner_process(tmp_path) as (_, runner):
        os.kill(runner.process.pid, signal.SIGSTOP)
        try:
            code = await asyncio.to_thread(show_health, tmp_path / "state")
        finally:
            os.kill(runner.process.pid, signal.SIGCONT)
        assert code == EXIT_FAILED
        assert "does not answer within 0.3 s" in capsys.readouterr().out


async def test_a_runner_that_has_ended_or_was_killed_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with runner_process(tmp_path) as (_, runner):
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert not list((tmp_path / "state").glob(f"*/{SOCKET_FILE}"))
        assert (await health_command(tmp_path)).code == EXIT_FAILED
        (folder,) = (tmp_path / "state").iterdir()
        with monkeypatch.context() as patch:
            patch.chdir(folder)  # because the whole path may be too long for a socket
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(SOCKET_FILE)
        answer = await health_command(tmp_path)
        assert (answer.code, answer.stdout) == (EXIT_FAILED, "")
        assert f"no runner is at work with a journal in {tmp_path / 'state'}" in answer.stderr


async def test_the_state_directory_may_have_a_path_of_any_length(tmp_path: Path) -> None:
    state = tmp_path / ("s" * 120) / "state"
    folder = state / "0123456789abcdef"
    folder.mkdir(parents=True)
    async with serve_health(folder, lambda: Health("online", 1)):
        asked = await finish(tmp_path, environment(None), "health", "--state-dir", str(state))
    assert (asked.code, asked.stdout) == (EXIT_OK, "0123456789abcdef: online, 1 run held\n")
    assert sockets(state, SOCKET_FILE) == []


async def test_a_path_that_is_too_long_and_cannot_be_shortened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_socket, "_OWN_DESCRIPTORS", tmp_path / "no-proc")
    state = tmp_path / ("s" * 120)
    folder = state / "0123456789abcdef"
    folder.mkdir(parents=True)
    async with serve_health(folder, lambda: Health("online", 1)):
        code = await asyncio.to_thread(show_health, state)
    assert code == EXIT_FAILED
    assert f"{state} is too long for the path of a socket on this system: use a shorter --state-dir" in (
        capsys.readouterr().err
    )


async def test_a_runner_in_an_unhealthy_state_is_unhealthy(tmp_path: Path) -> None:
    (tmp_path / "runner").mkdir()
    async with serve_health(tmp_path / "runner", lambda: Health("suspended", 3, is_unhealthy_state=True)):
        (answer,) = (await query_all(sockets(tmp_path, SOCKET_FILE))).values()
    assert (answer.is_healthy, str(answer)) == (False, "suspended, 3 runs held")


async def test_an_unreadable_answer_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LONGEST_ANSWER_BYTES", 10)
    (tmp_path / "runner").mkdir()
    monkeypatch.chdir(tmp_path / "runner")  # because the whole path may be too long for a socket
    for said in (b"no JSON\n", b'{"state": 1}\n', b"x" * 100, b""):

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = said) -> None:
            writer.write(said)
            writer.close()

        async with await asyncio.start_unix_server(answer, SOCKET_FILE):
            (answered,) = (await query_all(sockets(tmp_path, SOCKET_FILE))).values()
            assert not answered.is_healthy


async def test_a_deleted_socket_is_created_again_also_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_socket, "CHECK_INTERVAL_S", 0.01)
    folder = tmp_path / "journal"
    folder.mkdir()
    with log_lines() as lines:
        async with serve_health(folder, lambda: Health("online", 0)), asyncio.timeout(PATIENCE_S):

            async def until_it_answers() -> None:
                while not await query_all(sockets(tmp_path, SOCKET_FILE)):  # noqa: ASYNC110 - no event reports it
                    await asyncio.sleep(0.01)

            (folder / SOCKET_FILE).unlink()
            await until_it_answers()
            assert lines == []
            shutil.rmtree(folder)
            while not lines:  # noqa: ASYNC110 - the log has no event for this
                await asyncio.sleep(0.01)
            folder.mkdir()
            await until_it_answers()
        assert not (folder / SOCKET_FILE).exists()
    assert [line.split(":")[0] for line in lines] == [
        "`fsm-runner health` cannot reach this runner",
        "`fsm-runner health` reaches this runner again",
    ]
