"""Processes of this program that no run has started are spared."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm_runner.process.tree.procfs import read_process
from fsm_runner.process.tree.subreaper import SUBREAPER
from tests.support.children import exit_of, start_shell, subreaper_enabled
from tests.support.fifo import Fifo
from tests.support.processes import gone, is_there

pytestmark = pytest.mark.linux(reason="adoption of orphaned processes")


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    with subreaper_enabled(exclusive=False):
        yield


async def start_other(script: str) -> Process:
    return await asyncio.create_subprocess_exec("/bin/sh", "-c", script, start_new_session=True)


def exit_code(pid: int) -> int:
    """Reap a zombie and return its exit code. Raises ChildProcessError if it was reaped before."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])


def start_and_leave(script: str) -> int:
    return os.posix_spawn("/bin/sh", ["sh", "-c", script], {}, setsid=True)


async def test_another_process_survives_the_end_of_a_child() -> None:
    other = await start_other("exec sleep 1000")
    await exit_of(start_shell("setsid sleep 1000 & exit"))
    SUBREAPER.reap_orphans()
    assert other.returncode is None
    assert is_there(other.pid)
    other.kill()
    assert await other.wait() == -signal.SIGKILL


async def test_the_exit_code_of_another_process_is_not_taken() -> None:
    pid = start_and_leave("exit 3")
    await gone(pid)
    await exit_of(start_shell("setsid sleep 1000 & exit"))
    SUBREAPER.reap_orphans()
    assert exit_code(pid) == 3


@pytest.mark.parametrize("environment", ["", "env -i"], ids=["as it is", "cleared"])
async def test_the_orphan_of_another_process_survives_the_end_of_a_child(environment: str, signs: Fifo) -> None:
    other = await start_other(f"{environment} setsid /bin/sh -c 'echo $$ >{signs.path}; exec sleep 1000' & exit")
    pid = await signs.pid()
    assert await other.wait() == 0
    for _ in range(3):
        assert (await exit_of(start_shell("exit 0"))).code == 0
    assert is_there(pid)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    assert exit_code(pid) == -signal.SIGKILL


async def test_orphans_are_not_adopted_after_the_subreaper_is_disabled(tmp_path: Path, signs: Fifo) -> None:
    SUBREAPER.disable()
    async with Fifo(tmp_path / "go") as go:
        script = 'setsid sh -c \'echo $$ >"$0"; exec sleep 1000\' "$1" & read line <"$2"'
        child = start_shell(script, str(signs.path), str(go.path))
        pid = await signs.pid()
        go.write_line()
        await exit_of(child)
    orphan = read_process(pid)
    assert orphan is not None
    assert orphan.parent != os.getpid()
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
