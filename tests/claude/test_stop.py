"""A stop of Claude Code leaves no processes running."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import subreaper_enabled
from tests.support.claude import ClaudeBench, claude
from tests.support.fifo import Fifo
from tests.support.messages_api import Calls, Hangs, Says
from tests.support.processes import gone, with_environment


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    """Adopt orphans, as a runner does: the shell tool's commands have sessions of their own."""
    with subreaper_enabled(exclusive=False):
        yield


def running_tool(started: Fifo) -> Calls:
    """A command that writes its process id and that of a child in a session of its own, and then sleeps."""
    command = f"setsid sh -c 'echo $$ > {started.path}; sleep 1000' & echo $$ > {started.path}; sleep 1000"
    return Calls("Bash", {"command": command})


async def two_pids(bench: ClaudeBench, started: Fifo) -> list[int]:
    return [await started.pid() for _ in range(2)]


def of_session(session_id: str) -> list[int]:
    """Return the executor's process, which has the session in its environment."""
    return with_environment(f"AGENT_SESSION_ID={session_id}")


@pytest.mark.parametrize(("lifecycle", "took"), [("persistent", "shutdown"), ("one_shot", "SIGTERM")])
async def test_a_stop_in_the_middle_of_a_tool_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifecycle: str, took: str
) -> None:
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch, lifecycle) as bench:
        bench.api.will(running_tool(started))
        run = await bench.start()
        tools = await two_pids(bench, started)
        (executor,) = of_session(run.session_id)
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.system.end(run)).status == "stopped"
        (report,) = bench.system.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/stopped")
        assert report.json["signal"] == took
        for pid in (executor, *tools):
            await gone(pid)
        assert (await bench.session(run))["status"] == "stopped"


async def test_a_stop_while_the_api_hangs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.otherwise = Hangs()
        run = await bench.start()
        await bench.api.was_asked(1)
        (executor,) = of_session(run.session_id)
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.system.end(run)).status == "stopped"
        await gone(executor)


async def test_killing_the_executor_ends_its_program_and_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch) as bench:
        bench.api.will(running_tool(started))
        run = await bench.start()
        tools = await two_pids(bench, started)
        (executor,) = of_session(run.session_id)
        os.kill(executor, signal.SIGKILL)
        await bench.fails(run)
        for pid in tools:
            await gone(pid)


async def test_a_program_that_is_killed_in_a_turn_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Calls("Bash", {"command": f"echo $PPID > {started.path}; sleep 1000"}))
        run = await bench.start()
        os.kill(await started.pid(), signal.SIGKILL)
        error = await bench.fails(run)
    said = "Error: Claude Code has ended: it was killed by SIGKILL; the system does that when memory runs out"
    assert error == f"{said} (exit code 1 before its turn was complete)"


async def test_a_program_that_is_killed_between_turns_ends_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Calls("Bash", {"command": f"echo $PPID > {started.path}"}), Says("done"))
        run = await bench.start()
        _, program = await asyncio.gather(bench.completes(run), started.pid())
        os.kill(program, signal.SIGKILL)
        call = await bench.system.proxy.answered("POST", f"/runner/sessions/{run.session_id}/status")
    assert call.json["status"] == "failed"


async def test_a_draining_runner_shuts_the_program_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        run = await bench.start()
        await bench.completes(run)
        (executor,) = of_session(run.session_id)
        await bench.runner.drain()
        await gone(executor)
        assert (await bench.session(run))["status"] == "finished"
