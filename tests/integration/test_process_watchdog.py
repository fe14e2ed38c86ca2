"""The watchdog kills what a killed runner leaves behind."""

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
from typing import Any

import psutil
import pytest

from fsm_runner.app.durability import open_durable_state
from fsm_runner.journal.identity import RunnerIdentity
from fsm_runner.process.child.spawn import spawn
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.leftovers import watchdog as watchdog_module
from fsm_runner.process.leftovers import watchdog_program
from fsm_runner.process.leftovers.watchdog import Watchdog
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.runtime.actors.actor import Inbox
from fsm_runner.util.retry import RetryPolicy, Waits
from tests.support.children import ENV, HERE, is_reaped, open_descriptors
from tests.support.fifo import Fifo
from tests.support.logs import log_lines
from tests.support.processes import gone, is_there, reaped, with_environment
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.linux(reason="/proc")

ORPHAN = "echo $$ >$SIGNS; exec sleep 1000"
RUNNER = """
import asyncio, os, sys
from pathlib import Path
from fsm_runner.process.child.child import Child
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE
from fsm_runner.process.leftovers.watchdog import Watchdog

SCRIPT = '''
setsid sh -c "$ORPHAN" &
setsid sh -c 'sh -c "$ORPHAN" &' &
env -i SIGNS=$SIGNS setsid sh -c "$ORPHAN" &
env -i SIGNS=$SIGNS ORPHAN="$ORPHAN" setsid sh -c 'sh -c "$ORPHAN" &' &
trap "" TERM; sh -c "$ORPHAN" &
echo $$ >$SIGNS
wait
'''

async def main():
    tag = sys.argv[1]
    async with Watchdog(tag) as watchdog:
        signs = os.open(os.environ["SIGNS"], os.O_WRONLY)
        first = watchdog.pid
        os.write(signs, b"%d\\n" % first)
        child = Child.start(["/bin/sh", "-c", SCRIPT], env={**os.environ, RUNNER_TAG_VARIABLE: tag}, cwd=Path("/"))
        while watchdog.pid in (first, None):
            await asyncio.sleep(0.01)
        os.write(signs, b"%d\\n" % watchdog.pid)
        await child.wait()

asyncio.run(main())
"""
STARTED_BY_A_RUNNER = 6
IDENTITY = RunnerIdentity(
    hostname="here", project_dir="/", executor_profile="echo", executor_command="echo", coordinator_url="http://there"
)


@pytest.fixture
def tag() -> str:
    return f"{secrets.token_hex(8)}.first"


@asynccontextmanager
async def runner(tag: str, signs: Fifo) -> AsyncIterator[tuple[Process, int, list[int]]]:
    """A process like a runner, the id of its watchdog, and the ids of its descendants."""
    env = {**ENV, "ORPHAN": ORPHAN, "SIGNS": str(signs.path), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", RUNNER, tag]
    process = await asyncio.create_subprocess_exec(*command, env=env, start_new_session=True)
    try:
        watchdog = await signs.pid()
        yield process, watchdog, [await signs.pid() for _ in range(STARTED_BY_A_RUNNER)]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGSEGV])
async def test_no_process_of_a_runner_that_a_signal_killed_remains(
    number: signal.Signals, tag: str, signs: Fifo
) -> None:
    async with runner(tag, signs) as (process, watchdog, started):
        os.killpg(process.pid, number)
        await process.wait()
        for pid in (*started, watchdog):
            await gone(pid)
    assert with_environment(tag) == []


async def test_processes_of_another_runner_survive(tag: str, signs: Fifo) -> None:
    async with runner(tag, signs) as (process, watchdog, _):
        others = f"{tag}-and-more"  # such as the next process of the same runner
        other = await asyncio.create_subprocess_exec("sleep", "1000", env={**ENV, RUNNER_TAG_VARIABLE: others})
        process.kill()
        await gone(watchdog)
        assert is_there(other.pid)
        assert other.returncode is None
        other.kill()
        await other.wait()


def channels(pid: int, without: str) -> set[str]:
    """The pipes and sockets that a process holds, except for one descriptor."""
    folder = Path("/proc", str(pid), "fd")
    targets = {str(file.readlink()) for file in folder.iterdir() if file.name != without and file.is_symlink()}
    return {target for target in targets if target.startswith(("pipe:", "socket:"))}


async def test_the_watchdog_inherits_nothing_from_its_runner(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH0_RUNNER_CLIENT_SECRET", "s3cret")
    async with Watchdog(tag) as watchdog:
        assert watchdog.pid is not None
        proc = Path("/proc", str(watchdog.pid))
        assert (proc / "cwd").readlink() == Path("/")
        assert os.getsid(watchdog.pid) == os.getpgid(watchdog.pid) == watchdog.pid
        assert channels(watchdog.pid, without="0") == set()
        assert b"s3cret" not in (proc / "environ").read_bytes()


async def test_the_watchdog_ends_with_its_runner(tag: str) -> None:
    descriptors = open_descriptors()
    async with Watchdog(tag) as watchdog:
        assert watchdog.pid is not None
        assert not is_reaped(watchdog.pid)
    assert is_reaped(watchdog.pid)
    assert watchdog.pid not in SUBREAPER.known
    assert open_descriptors() == descriptors


async def test_the_watchdog_kills_remaining_processes_at_a_regular_end(tag: str) -> None:
    left = await asyncio.create_subprocess_exec("sleep", "1000", env={**ENV, RUNNER_TAG_VARIABLE: tag})
    async with Watchdog(tag):
        assert left.returncode is None
    assert await left.wait() == -signal.SIGKILL


async def test_the_watchdog_is_not_taken_for_an_orphan(tag: str) -> None:
    async with Watchdog(tag) as watchdog:
        assert watchdog.pid not in SUBREAPER.possible_orphans()


async def replaced(watchdog: Watchdog, pid: int) -> int:
    """Return the process id of the watchdog that replaces the one with this id."""
    async with asyncio.timeout(PATIENCE_S):
        while watchdog.pid in (pid, None):  # noqa: ASYNC110 - only the log reports it
            await asyncio.sleep(0.01)
    assert watchdog.pid is not None
    return watchdog.pid


async def test_a_killed_watchdog_is_reported_and_replaced(tag: str) -> None:
    with log_lines() as lines:
        async with Watchdog(tag) as watchdog:
            assert watchdog.pid is not None
            first = watchdog.pid
            os.kill(first, signal.SIGKILL)
            await asyncio.wait_for(watchdog._ended.wait(), PATIENCE_S)
            assert is_reaped(first)
            problem = watchdog.problem or ""
            assert problem.endswith(f": process {first} was killed by SIGKILL")
            second = await replaced(watchdog, first)
            assert not watchdog.problem
            assert second not in SUBREAPER.possible_orphans()
            left = await asyncio.create_subprocess_exec("sleep", "1000", env={**ENV, RUNNER_TAG_VARIABLE: tag})
        assert await left.wait() == -signal.SIGKILL
    assert is_reaped(second)
    assert [line for line in lines if "watchdog" in line] == [
        "there is no watchdog, so a killed runner would leave its executors running until it starts again: "
        f"process {first} was killed by SIGKILL; starting another one",
        f"the watchdog runs again as process {second}",
    ]


async def test_no_process_of_a_runner_that_is_killed_after_its_watchdog_remains(tag: str, signs: Fifo) -> None:
    async with runner(tag, signs) as (process, watchdog, started):
        os.kill(watchdog, signal.SIGKILL)
        second = await signs.pid()
        process.kill()
        await process.wait()
        for pid in (*started, second):
            await gone(pid)
    assert with_environment(tag) == []


async def test_starting_another_watchdog_is_retried(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 3

    def failing_at_first(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        nonlocal failures
        if failures:
            failures -= 1
            raise SpawnFailed("too many processes")
        return spawn(command, **options)

    monkeypatch.setattr(watchdog_module, "RESTARTS", RetryPolicy(base_s=0.001, cap_s=0.01))
    descriptors = open_descriptors()
    with log_lines() as lines:
        async with Watchdog(tag) as watchdog:
            assert watchdog.pid is not None
            monkeypatch.setattr(watchdog_module, "spawn", failing_at_first)
            os.kill(watchdog.pid, signal.SIGKILL)
            await replaced(watchdog, watchdog.pid)
    assert failures == 0
    assert open_descriptors() == descriptors
    assert len([line for line in lines if "it cannot be started again: too many processes" in line]) == 1


async def test_an_exception_while_replacing_the_watchdog_is_a_problem_at_once(
    tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(waits: Waits) -> float:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Waits, "next_s", broken)
    with log_lines("ERROR") as lines:
        async with Watchdog(tag) as watchdog, asyncio.timeout(PATIENCE_S):
            assert watchdog.pid is not None
            os.kill(watchdog.pid, signal.SIGKILL)
            while not lines:  # noqa: ASYNC110 - only the log reports it
                await asyncio.sleep(0.01)
            assert watchdog.problem == lines[0] == "a watchdog that ends is not replaced: ZeroDivisionError('a defect')"


async def test_a_runner_that_ends_without_a_watchdog_does_not_wait_for_one(
    tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "RESTARTS", RetryPolicy(base_s=1000.0, cap_s=1000.0))
    async with Watchdog(tag) as watchdog:
        assert watchdog.pid is not None
        os.kill(watchdog.pid, signal.SIGKILL)
        await asyncio.wait_for(watchdog._ended.wait(), PATIENCE_S)
    assert watchdog.pid is None


async def test_a_missing_watchdog_is_a_problem_of_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "RESTARTS", RetryPolicy(base_s=1000.0, cap_s=1000.0))
    before = {child.pid for child in psutil.Process().children()}
    async with open_durable_state(tmp_path, IDENTITY, str, Inbox()) as durable:
        (watchdog,) = (child for child in psutil.Process().children() if child.pid not in before)
        assert durable.problem() is None
        watchdog.kill()
        await reaped(watchdog.pid)
        assert (durable.problem() or "").startswith(
            "there is no watchdog, so a killed runner would leave its executors"
        )


async def test_a_watchdog_that_takes_long_continues_alone(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsm_runner.process.leftovers.watchdog.EXIT_WAIT_S", 0.05)
    async with Watchdog(tag) as watchdog:
        assert watchdog.pid is not None
        os.kill(watchdog.pid, signal.SIGSTOP)
    assert not is_reaped(watchdog.pid)
    os.kill(watchdog.pid, signal.SIGCONT)
    await gone(watchdog.pid)
    is_reaped(watchdog.pid)
    SUBREAPER.known.discard(watchdog.pid)


async def test_its_program_imports_only_small_modules() -> None:
    command = [sys.executable, "-I", "-S", "-E", "-X", "importtime", watchdog_program.__file__, "NOBODY=HAS-THIS", "0"]
    done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert (done.returncode, "signal" in imported) == (0, True)
    assert "fsm_runner.process.leftovers.leftover_killer" in imported
    assert {"asyncio", "hashlib", "msgspec", "pathlib", "re", "subprocess", "typing"}.isdisjoint(imported)
