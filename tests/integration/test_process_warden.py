"""What a runner leaves behind when it is killed is ended by its warden."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.process import warden_program
from fsm_runner.process.orphans import ORPHANS
from fsm_runner.process.owner import OWNER_VARIABLE
from fsm_runner.process.warden import Warden
from tests.support.children import ENV, HERE, is_reaped, open_descriptors
from tests.support.fifo import Fifo
from tests.support.processes import gone, is_there, with_environment
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warden needs /proc")

STRAY = "echo $$ >$SIGNS; exec sleep 1000"
RUNNER = """
import asyncio, os, sys
from pathlib import Path
from fsm_runner.process.child import Child
from fsm_runner.process.owner import OWNER_VARIABLE
from fsm_runner.process.warden import Warden

SCRIPT = '''
setsid sh -c "$STRAY" &
setsid sh -c 'sh -c "$STRAY" &' &
env -i SIGNS=$SIGNS setsid sh -c "$STRAY" &
env -i SIGNS=$SIGNS STRAY="$STRAY" setsid sh -c 'sh -c "$STRAY" &' &
trap "" TERM; sh -c "$STRAY" &
echo $$ >$SIGNS
wait
'''

async def main():
    owner = sys.argv[1]
    async with Warden(owner) as warden:
        os.write(os.open(os.environ["SIGNS"], os.O_WRONLY), b"%d\\n" % warden.pid)
        child = Child.start(["/bin/sh", "-c", SCRIPT], env={**os.environ, OWNER_VARIABLE: owner}, cwd=Path("/"))
        await child.wait()

asyncio.run(main())
"""
STARTED_BY_A_RUNNER = 6


@pytest.fixture
async def signs(tmp_path: Path) -> AsyncIterator[Fifo]:
    async with Fifo(tmp_path / "signs") as fifo:
        yield fifo


@pytest.fixture
def owner() -> str:
    return f"{secrets.token_hex(8)}.first"


@asynccontextmanager
async def runner(owner: str, signs: Fifo) -> AsyncIterator[tuple[Process, int, list[int]]]:
    """A process that lives as a runner does, its warden's id, and those of what it has started."""
    env = {**ENV, "STRAY": STRAY, "SIGNS": str(signs.path), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", RUNNER, owner]
    process = await asyncio.create_subprocess_exec(*command, env=env, start_new_session=True)
    try:
        warden = await signs.pid()
        yield process, warden, [await signs.pid() for _ in range(STARTED_BY_A_RUNNER)]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGSEGV])
async def test_nothing_is_left_of_a_runner_that_a_signal_has_ended(
    number: signal.Signals, owner: str, signs: Fifo
) -> None:
    async with runner(owner, signs) as (process, warden, started):
        os.killpg(process.pid, number)
        await process.wait()
        for pid in (*started, warden):
            await gone(pid)
    assert with_environment(owner) == []


async def test_what_another_runner_has_started_lives_on(owner: str, signs: Fifo) -> None:
    async with runner(owner, signs) as (process, warden, _):
        others = f"{owner}-and-more"  # the next process of the same runner, say
        other = await asyncio.create_subprocess_exec("sleep", "1000", env={**ENV, OWNER_VARIABLE: others})
        process.kill()
        await gone(warden)
        assert is_there(other.pid)
        assert other.returncode is None
        other.kill()
        await other.wait()


def channels(pid: int, without: str) -> set[str]:
    """The pipes and sockets that a process holds, but for one of its descriptors."""
    folder = Path("/proc", str(pid), "fd")
    targets = {str(file.readlink()) for file in folder.iterdir() if file.name != without and file.is_symlink()}
    return {target for target in targets if target.startswith(("pipe:", "socket:"))}


async def test_a_warden_holds_nothing_of_its_runner(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH0_RUNNER_CLIENT_SECRET", "s3cret")
    async with Warden(owner) as warden:
        assert warden.pid is not None
        proc = Path("/proc", str(warden.pid))
        assert (proc / "cwd").readlink() == Path("/")
        assert os.getsid(warden.pid) == os.getpgid(warden.pid) == warden.pid
        assert channels(warden.pid, without="0") == set()
        assert b"s3cret" not in (proc / "environ").read_bytes()


async def test_a_warden_leaves_with_its_runner(owner: str) -> None:
    descriptors = open_descriptors()
    async with Warden(owner) as warden:
        assert warden.pid is not None
        assert not is_reaped(warden.pid)
    assert is_reaped(warden.pid)
    assert warden.pid not in ORPHANS._known
    assert open_descriptors() == descriptors


async def test_a_warden_ends_what_is_left_at_a_regular_end(owner: str) -> None:
    left = await asyncio.create_subprocess_exec("sleep", "1000", env={**ENV, OWNER_VARIABLE: owner})
    async with Warden(owner):
        assert left.returncode is None
    assert await left.wait() == -signal.SIGKILL


async def test_a_warden_is_no_orphan(owner: str) -> None:
    async with Warden(owner) as warden:
        assert warden.pid not in ORPHANS.unknown_children()


async def test_a_warden_that_was_ended_is_told_of_and_reaped(owner: str) -> None:
    async with Warden(owner) as warden:
        assert warden.pid is not None
        os.kill(warden.pid, signal.SIGKILL)
        await asyncio.wait_for(warden._ended.wait(), PATIENCE_S)
        assert is_reaped(warden.pid)


async def test_a_warden_that_does_not_leave_is_ended(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsm_runner.process.warden.LEAVE_S", 0.05)
    async with Warden(owner) as warden:
        assert warden.pid is not None
        os.kill(warden.pid, signal.SIGSTOP)
    assert is_reaped(warden.pid)


async def test_its_program_imports_little() -> None:
    command = [sys.executable, "-I", "-S", "-E", "-X", "importtime", warden_program.__file__, "NOBODY=HAS-THIS", "0"]
    done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert (done.returncode, "signal" in imported) == (0, True)
    assert {"asyncio", "pathlib", "re", "subprocess", "typing"}.isdisjoint(imported)
