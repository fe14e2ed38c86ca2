"""Runs that exceed a limit fail and name it; other runs and the runner continue."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.process.child import child as child_module
from fsm_runner.process.limits.limits import ResourceLimits
from tests.support.command_executor import GRACE_S, Step, command_home, scripted_bench, short_graces
from tests.support.home import make_home
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.runner import System, open_system, waiter

pytestmark = pytest.mark.linux(reason="the limits of Linux")

MIB = 1 << 20
COMMANDS = {
    "grow": "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
    "fork": "import os, signal\nfor _ in range(30):\n    if os.fork() == 0: break\nsignal.pause()",
    "open": "kept = [open('/dev/null') for _ in range(100)]",
    "burn": "while True: pass",
    "chatter": "while True: print('x' * 1000)",
    "shrug": "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nwhile True: print('x' * 1000)",
}


def home_of(folder: Path, **profile_fields: Any) -> Any:
    """Replaces commands that these tests do not need."""
    home = make_home(folder, **profile_fields)
    commands = folder / "executors/procedural/commands"
    for name, script in zip(
        ("flood", "hang", "write-nul", "leave-a-child", "fail", "no-object"), COMMANDS, strict=True
    ):
        (commands / name).write_text(f"#!{sys.executable} -IS\n{COMMANDS[script]}\n")
    return home


AGENTS = dict(zip(COMMANDS, ("flood", "hang", "write-nul", "leave-a-child", "fail", "no-object"), strict=True))


async def error_of(system: System, name: str) -> tuple[str, str]:
    """Return the id and the error of a run that fails."""
    run = await system.submit(AGENTS[name])
    ended = await system.end(run)
    assert ended.status == "failed"
    assert system.reports(run)[-1] == "failed"
    return run.run_id, ended.error or ""


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("grow", ResourceLimits(memory_bytes=200 * MIB), "memory limit of 200 MiB exceeded ("),
        ("fork", ResourceLimits(processes=10), "process limit of 10 exceeded ("),
        ("open", ResourceLimits(open_files=50), "limit of 50 open files in a process reached: Traceback"),
        ("burn", ResourceLimits(cpu_s=0.5), "CPU limit of 0.5 s exceeded (0."),
        ("chatter", ResourceLimits(output_bytes=MIB), "output limit of 1 MiB exceeded"),
        ("shrug", ResourceLimits(output_bytes=MIB), "output limit of 1 MiB exceeded"),
    ],
)
async def test_a_run_that_exceeds_a_limit_fails_and_others_continue(
    tmp_path: Path, name: str, limits: ResourceLimits, reason: str
) -> None:
    home = home_of(tmp_path / "home")
    async with open_system(tmp_path) as system, system.running(home, run_limits=limits), waiter(tmp_path) as held:
        other = await system.submit("wait", **held.parameters)
        await held.started.pid()
        with log_lines() as lines:
            run_id, error = await error_of(system, name)
            assert error.startswith(reason)
            await system.completes()  # whose log lines come after those of the run that has failed
        assert any(run_id in line and reason in line for line in lines)
        held.gate.write_line("still here")
        assert (await system.end(other)).status == "completed"


async def test_each_limit_of_the_flag_wins_over_the_profile(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", limits=ResourceLimits(output_bytes=MIB, cpu_s=0.5))
    async with open_system(tmp_path) as system, system.running(home, run_limits=ResourceLimits(output_bytes=2 * MIB)):
        assert (await error_of(system, "chatter"))[1] == "output limit of 2 MiB exceeded"
        assert "CPU limit of 0.5 s" in (await error_of(system, "burn"))[1]


async def test_a_run_with_limits_can_be_stopped(tmp_path: Path) -> None:
    limits = ResourceLimits(memory_bytes=1 << 30, cpu_s=100)
    home = make_home(tmp_path / "home")
    async with (
        open_system(tmp_path) as system,
        system.running(home, run_limits=limits) as runner,
        waiter(tmp_path) as held,
    ):
        run = await system.submit("wait", **held.parameters)
        pid = await held.started.pid()
        runner.actor.post("stop_now_requested", "the test wants it")
        assert (await system.end(run)).status == "stopped"
        await gone(pid)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("limits of")]


def one_shot(folder: Path) -> Any:
    return command_home(folder, lifecycle="one_shot")


async def test_a_one_shot_executor_fails_with_its_limit(tmp_path: Path) -> None:
    limits = ResourceLimits(output_bytes=MIB)
    async with scripted_bench(tmp_path, one_shot(tmp_path / "home"), run_limits=limits) as bench:
        run = await bench.start(["complain", "x" * 1000, 2000])
        assert await bench.fails(run) == "output limit of 1 MiB exceeded"
        await bench.completes(await bench.start(["complain", "x" * 1000, 1000]))


async def test_a_turn_that_exceeds_a_limit_fails_and_its_executor_is_gone(tmp_path: Path) -> None:
    limits = ResourceLimits(output_bytes=MIB)
    async with scripted_bench(tmp_path, run_limits=limits) as bench, waiter(tmp_path) as held:
        run = await bench.start(["tell_pid", str(held.started.path)], ["say", "x" * 1000, 2000])
        pid = await held.started.pid()
        assert await bench.fails(run) == "output limit of 1 MiB exceeded"
        await gone(pid)
        assert await bench.session(run) == "failed"


async def test_a_turn_that_exceeds_a_limit_as_it_completes_fails(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, run_limits=ResourceLimits(output_bytes=1000)) as bench:
        # In one write, so that both are read together.
        complete = '{"type": "turn_complete"}\n'
        run = await bench.start(["silent"], ["say", "x" * 1000 + "\n" + complete])
        assert await bench.fails(run) == "output limit of 1,000 bytes exceeded"


async def test_the_output_limit_counts_for_each_turn(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, run_limits=ResourceLimits(output_bytes=1000)) as bench:
        first = await bench.start(["say", "x" * 800 + "\n"])
        await bench.completes(first)
        for _ in range(3):
            await bench.completes(await bench.resume(first, ["say", "x" * 800 + "\n"]))


async def test_a_limit_between_two_turns_ends_the_session(tmp_path: Path) -> None:
    limits = ResourceLimits(output_bytes=1000)
    async with scripted_bench(tmp_path, run_limits=limits) as bench, waiter(tmp_path) as held:
        with log_lines() as lines:
            run = await bench.start(["afterwards", ["await", str(held.gate.path)], ["say", "x" * 2000 + "\n"]])
            await bench.completes(run)
            held.gate.write_line()
            assert await bench.session_ended() == "failed"
        assert any("output limit of 1,000 bytes exceeded" in line and run.session_id in line for line in lines)


async def test_an_executor_that_hides_its_end_fails_with_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes stdout and does not end."""
    short_graces(monkeypatch)
    monkeypatch.setattr(child_module, "TERM_GRACE_S", GRACE_S)
    async with (
        scripted_bench(tmp_path, run_limits=ResourceLimits(output_bytes=1000)) as bench,
        waiter(tmp_path) as held,
    ):
        hidden: list[Step] = [
            ["ignore_sigterm"],
            ["complain", "x" * 1100],
            ["close", 1],
            ["await", str(held.gate.path)],
        ]
        assert await bench.fails(await bench.start(*hidden)) == "output limit of 1,000 bytes exceeded"


async def test_an_executor_within_its_limits_works_turn_after_turn(tmp_path: Path) -> None:
    generous = ResourceLimits(memory_bytes=1 << 30, processes=10, open_files=100, cpu_s=100, output_bytes=MIB)
    async with scripted_bench(tmp_path, run_limits=generous) as bench:
        first = await bench.start(["bind"])
        await bench.completes(first)
        for _ in range(3):
            await bench.completes(await bench.resume(first, ["event", "more"]))
