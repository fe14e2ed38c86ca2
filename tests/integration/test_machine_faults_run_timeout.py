"""A run that executes for longer than it may."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.config.profiles import LoadedProfile, load_profile
from fsm_runner.config.settings import load_config
from tests.support.command_executor import command_home, held_by, scripted_bench, short_graces
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import environment, program
from tests.support.proxy import TERMINAL_REPORT
from tests.support.runner import System, Waiter, open_system, running, waiter

LIMIT_S = 3.0
"""Time enough to start, on a busy machine too."""
REASON = "executing: not done within the time limit of 3 s (run timeout)"
LONG_S = 3600.0
REGISTER = "/runner/register"
TELLS_OF_SIGTERM = """#!/bin/sh
trap 'echo SIGTERM > "$2"' TERM
echo $$ > "$2"
while ! read answer < "$4"; do :; done
"""
"""Reports SIGTERM and does not end."""


def reported_reason(system: System) -> str:
    """Return the error in the one terminal report."""
    (report,) = system.proxy.acknowledged("POST", TERMINAL_REPORT)
    assert report.path.endswith("/failed")
    error: str = report.json["error"]
    return error


@asynccontextmanager
async def running_home(
    folder: Path, home: LoadedProfile, run_timeout_s: float | None
) -> AsyncIterator[tuple[System, Waiter]]:
    async with (
        open_system(folder) as system,
        waiter(folder) as command,
        system.running(home, run_timeout_s=run_timeout_s),
    ):
        yield system, command


async def test_a_command_is_ended_and_its_run_fails_with_the_limit(tmp_path: Path) -> None:
    async with running(tmp_path, run_timeout_s=LIMIT_S) as (system, _), waiter(tmp_path) as command:
        run = await system.submit("wait", **command.parameters)
        pid = await command.started.pid()
        ended = await system.end(run)
        assert (ended.status, ended.error) == ("failed", REASON)
        assert reported_reason(system) == REASON
        assert system.states[run.run_id][-4:] == ["executing", "stopping", "reporting", "failed"]
        await gone(pid)
        await system.completes()


async def test_a_command_that_stays_gets_sigterm_and_then_sigkill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    home = make_home(tmp_path / "home")
    (tmp_path / "home/executors/procedural/commands/wait").write_text(TELLS_OF_SIGTERM)
    async with running_home(tmp_path, home, LIMIT_S) as (system, command):
        run = await system.submit("wait", **command.parameters)
        pid = await command.started.pid()
        assert await command.started.line() == "SIGTERM"
        assert (await system.end(run)).error == REASON
        await gone(pid)


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
async def test_an_executor_is_ended_and_its_run_fails_with_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifecycle: str
) -> None:
    short_graces(monkeypatch)
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with scripted_bench(tmp_path, home, run_timeout_s=LIMIT_S) as stage, waiter(tmp_path) as command:
        run = await stage.start(["ignore_sigterm"], ["ignore_shutdown"], *held_by(command))
        pid = await command.started.pid()
        assert await stage.fails(run) == REASON
        assert reported_reason(stage.system) == REASON
        await gone(pid)
        await stage.completes(await stage.start())


async def test_a_later_turn_has_the_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)
    home = command_home(tmp_path / "home")
    async with scripted_bench(tmp_path, home, run_timeout_s=LIMIT_S) as stage, waiter(tmp_path) as command:
        first = await stage.start()
        await stage.completes(first)
        second = await stage.resume(first, *held_by(command))
        pid = await command.started.pid()
        assert await stage.fails(second) == REASON
        await gone(pid)


async def test_the_limit_may_come_from_the_profile(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", run_timeout=LIMIT_S)
    async with running_home(tmp_path, home, None) as (system, command):
        run = await system.submit("wait", **command.parameters)
        assert (await system.end(run)).error == REASON


async def test_the_limit_of_the_flag_wins(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", run_timeout=LONG_S)
    async with running_home(tmp_path, home, LIMIT_S) as (system, command):
        run = await system.submit("wait", **command.parameters)
        assert (await system.end(run)).error == REASON


async def test_a_run_that_ends_in_time_is_not_stopped(tmp_path: Path) -> None:
    async with running(tmp_path, run_timeout_s=LONG_S) as (system, _):
        await system.completes()


def test_there_is_no_limit_unless_one_is_set() -> None:
    assert load_config({}, {}).run_timeout_s is None
    assert load_profile("echo").profile.run_timeout is None


async def test_the_flag_reaches_the_run(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with open_system(tmp_path) as system, waiter(tmp_path) as command:
        arguments = (
            "-x",
            PROFILE,
            "-c",
            system.proxy.url,
            "--state-dir",
            str(tmp_path / "state"),
            "--run-timeout",
            f"{LIMIT_S:g}",
        )
        async with program(tmp_path, environment(tmp_path / "home"), *arguments):
            await system.proxy.answered("POST", REGISTER)
            run = await system.submit("wait", **command.parameters)
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
            assert reported_reason(system) == REASON
