"""Process 1 of a container gets every orphan, and the kernel discards signals that it does not handle."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_OK
from tests.support.fifo import Fifo
from tests.support.home import PROFILE, make_home
from tests.support.inheritance import may_unshare
from tests.support.processes import reaped, with_environment
from tests.support.program import REPOSITORY, environment
from tests.support.runner import System, open_system
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.skipif(not may_unshare(), reason="needs the right to make a process namespace")


REGISTER = "/runner/register"
ENTRY_POINT = REPOSITORY / "docker" / "base" / "entrypoint.sh"
FSM_RUNNER = (sys.executable, "-m", "fsm_runner")

NOBODY = 65534
HANDLES_NO_SIGNAL = """
import signal
from fsm_runner.process.init import fork_if_process_1
fork_if_process_1()
signal.pause()
"""
BECOMES_NOBODY = """
import ctypes, os, signal, sys
from fsm_runner.process.init import fork_if_process_1
nobody = int(sys.argv[1])
os.setgroups([])
os.setresgid(nobody, nobody, nobody)
os.setresuid(nobody, nobody, nobody)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as in a program that was started as this user
fork_if_process_1()
signal.pause()
"""


async def test_process_1_reaps_orphans_and_handles_a_signal_at_any_time(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with (
        open_system(tmp_path) as system,
        process_1(tmp_path, system) as (process, pid),
        Fifo(tmp_path / "gate") as gate,
    ):
        # Init waits for signals before the rest of the program is imported.
        await system.proxy.answered("POST", REGISTER)
        orphan = f"ORPHAN={tmp_path}"
        leave = ["nsenter", "--target", str(pid), "--pid", "sh", "-c", f"head -n 1 {gate.path} >/dev/null 2>&1 &"]
        env = {**environment(None), "ORPHAN": str(tmp_path)}
        await asyncio.to_thread(subprocess.run, leave, env=env, check=True, timeout=PATIENCE_S)
        (child,) = with_environment(orphan)
        gate.write_line()
        await reaped(child)
        os.kill(pid, signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == EXIT_OK


async def test_process_1_forwards_a_signal_before_the_program_handles_it(tmp_path: Path) -> None:
    """The kernel would discard the signal for process 1, but it ends the child."""
    command = [sys.executable, "-c", HANDLES_NO_SIGNAL]
    async with namespace(command, tmp_path, environment(None)) as (process, pid):
        await child_of(pid)
        os.kill(pid, signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_process_1_hides_its_environment_as_the_runner_does(tmp_path: Path) -> None:
    """Checked as another user, because root may read everything."""
    command = [sys.executable, "-c", BECOMES_NOBODY, str(NOBODY)]
    async with namespace(command, tmp_path, environment(None)) as (_, pid), asyncio.timeout(PATIENCE_S):
        child = await child_of(pid)
        while is_readable_for_nobody(f"/proc/{pid}/environ"):  # noqa: ASYNC110 - the environment is hidden after the fork
            await asyncio.sleep(0.001)
        assert is_readable_for_nobody(f"/proc/{child}/environ")


async def test_the_entry_point_of_the_images_handles_a_signal_before_it_becomes_init(tmp_path: Path) -> None:
    async with Fifo(tmp_path / "started") as started, Fifo(tmp_path / "gate") as gate:
        # The first command of the entry point.
        (tmp_path / "id").write_text(f"#!/bin/sh\necho >{started.path}; head -n 1 <{gate.path}\n")
        (tmp_path / "id").chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        async with namespace(["sh", str(ENTRY_POINT)], tmp_path, environment(None, PATH=path)) as (process, pid):
            await started.line()
            os.kill(pid, signal.SIGTERM)
            gate.write_line("1000")
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 128 + signal.SIGTERM


def is_readable_for_nobody(path: str) -> bool:
    read = ["cat", path]
    return subprocess.run(read, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True).returncode == 0


@asynccontextmanager
async def process_1(folder: Path, system: System) -> AsyncIterator[tuple[Process, int]]:
    """A runner in a process namespace of its own."""
    command = [*FSM_RUNNER, "-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(folder / "state")]
    async with namespace(command, folder, environment(folder / "home")) as started:
        yield started


@asynccontextmanager
async def namespace(command: list[str], cwd: Path, env: dict[str, str]) -> AsyncIterator[tuple[Process, int]]:
    """Start the command as process 1 of a namespace. Yield the starter and the id of process 1 outside of it."""
    unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    process = await asyncio.create_subprocess_exec(*unshare, *command, cwd=cwd, env=env, stdin=DEVNULL)
    try:
        yield process, await child_of(process.pid)
    finally:
        if process.returncode is None:
            # `--kill-child` has no effect on a command that has changed its user.
            for child in children_of(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
        await process.wait()


async def child_of(pid: int) -> int:
    """Return the first child of a process, once there is one."""
    async with asyncio.timeout(PATIENCE_S):
        while not (children := children_of(pid)):  # noqa: ASYNC110 - no event reports a fork
            await asyncio.sleep(0.001)
    return children[0]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
