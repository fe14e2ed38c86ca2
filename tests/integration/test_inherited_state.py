"""Closed and failing standard streams, ignored and blocked signals."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_FAILED, EXIT_OK
from tests.support.executor_program import ECHO, SDK
from tests.support.home import PROFILE, make_home
from tests.support.inheritance import inheriting
from tests.support.program import REPOSITORY, environment
from tests.support.runner import System, open_system
from tests.support.watch import PATIENCE_S

REGISTER = "/runner/register"
FULL_DEVICE = Path("/dev/full")
FSM_RUNNER = (sys.executable, "-m", "fsm_runner")
CLOSED = [each for size in (1, 2, 3) for each in itertools.combinations((0, 1, 2), size)]

linux_only = pytest.mark.linux(reason="/proc")
needs_full_device = pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full")

LISTS_DESCRIPTORS = """
import os, sys
from fsm_runner.process.inherited import normalize_streams
normalize_streams()
assert os.open(sys.argv[1], os.O_RDONLY) > 2
if "0" in sys.argv[2]:
    assert sys.stdin.read() == ""
print("a message", file=sys.stderr, flush=True)
try:
    print("a result", flush=True)
except OSError as fault:
    assert "1" in sys.argv[2], fault
    assert str(fault) == "[Errno 9] it is closed: 'standard output'"
    os._exit(7)
"""

SHOWS_SIGNALS = """#!/bin/sh
exec awk '/^SigBlk/ { blocked = $2 } /^SigIgn/ { ignored = $2 }
    END { printf "{\\"blocked\\": \\"%s\\", \\"ignored\\": \\"%s\\"}", blocked, ignored }' /proc/self/status
"""
NONE = "0" * 16


def ends(command: list[str], cwd: Path, env: dict[str, str], stderr: int = PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=env, stdin=DEVNULL, stdout=PIPE, stderr=stderr, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_no_file_gets_the_number_of_a_standard_stream(tmp_path: Path, closed: tuple[int, ...]) -> None:
    digits = "".join(map(str, closed))
    command = [sys.executable, "-c", LISTS_DESCRIPTORS, __file__, digits]
    ended = ends(inheriting(command, closed=closed), tmp_path, environment(None))
    assert (ended.returncode, ended.stdout) == ((7, "") if 1 in closed else (0, "a result\n")), ended.stderr
    assert ended.stderr == ("" if 2 in closed else "a message\n")


def test_run_works_without_standard_error_and_input(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    command = inheriting([*FSM_RUNNER, "run", "say", "text=hello"], closed=(0, 2))
    ended = ends(command, tmp_path, environment(tmp_path / "home"))
    assert (ended.returncode, ended.stdout) == (EXIT_OK, '{"said": "hello"}\n')


def test_a_result_without_standard_output_is_an_error(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    command = inheriting([*FSM_RUNNER, "run", "say", "text=hello"], closed=(1,))
    ended = ends(command, tmp_path, environment(tmp_path / "home"))
    assert ended.returncode == EXIT_FAILED
    # On a busy machine, warnings may precede it.
    message = "run run_[0-9a-f]+ completed, but its result cannot be written to standard output: it is closed"
    assert re.fullmatch(f"error: {message}", ended.stderr.splitlines()[-1]), ended.stderr


@needs_full_device
def test_other_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with FULL_DEVICE.open("w") as full:
        ended = subprocess.run([*FSM_RUNNER, "--version"], stdout=full, stderr=PIPE, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stderr) == (EXIT_FAILED, "error: standard output: No space left on device\n")


@needs_full_device
async def test_a_log_message_that_cannot_be_written_does_not_lose_the_result(tmp_path: Path) -> None:
    """`submit --wait` logs the run before it waits."""
    async with open_system(tmp_path) as system, system.running(make_home(tmp_path / "home")):
        submit = [*FSM_RUNNER, "submit", "say", "text=x", "--wait", "-c", system.server.url]
        full = os.open(FULL_DEVICE, os.O_WRONLY)
        try:
            ended = await asyncio.to_thread(ends, submit, tmp_path, environment(None), full)
        finally:
            os.close(full)
    assert (ended.returncode, ended.stdout) == (EXIT_OK, '{"said": "x"}\n')


def test_a_slow_reader_of_a_non_blocking_pipe_gets_the_whole_output(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = "from fsm_runner.process.inherited import normalize_streams; normalize_streams(); print('x' * 1_000_000)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=writer, env=environment(None))
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert len(stream.read()) == 1_000_001
    assert process.wait(PATIENCE_S) == 0


@linux_only
async def test_a_runner_works_with_closed_streams_and_ignored_and_blocked_signals(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home.executor_folder / "commands" / "say").write_text(SHOWS_SIGNALS)
    async with open_system(tmp_path) as system, impaired_runner(tmp_path, system) as process:
        assert standard_streams(process.pid) == [Path(os.devnull)] * 3
        shown = await completed(system)
        assert shown == {"blocked": NONE, "ignored": NONE}
        for number in (signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
        # A draining runner claims no runs.
        await completed(system)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == EXIT_OK


@asynccontextmanager
async def impaired_runner(folder: Path, system: System) -> AsyncIterator[Process]:
    command = inheriting(
        [*FSM_RUNNER, "-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(folder / "state")],
        closed=(0, 1, 2),
        ignored=(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1),
        blocked=(signal.SIGTERM, signal.SIGCHLD, signal.SIGINT),
    )
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment(folder / "home"))
    try:
        await system.proxy.answered("POST", REGISTER)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def completed(system: System) -> dict[str, str]:
    """Submit a run, wait until it is completed, and return its result."""
    run = await system.submit("say")
    await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
    result = await system.result(run)
    assert result is not None
    return result


def test_an_executor_works_with_closed_streams_and_ignored_and_blocked_signals(tmp_path: Path) -> None:
    body = """
import fsm_executor, os, signal, subprocess, sys
async def main(session): pass
if sys.argv[1:]:
    fsm_executor.run(main, name="test", version="1")
sys.argv.append("--version")
try:
    fsm_executor.run(main, name="test", version="1")
except SystemExit:
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert os.open(os.devnull, os.O_RDONLY) > 2
    raise
"""
    command = inheriting(
        [sys.executable, "-c", body], closed=(0, 2), ignored=(signal.SIGCHLD,), blocked=(signal.SIGTERM,)
    )
    ended = ends(command, tmp_path, environment(None, PYTHONPATH=str(SDK)))
    assert (ended.returncode, json.loads(ended.stdout)["executor"]) == (0, "test")


def test_an_executor_without_standard_output_says_so(tmp_path: Path) -> None:
    invocation = {"schema_version": "2.2", "mode": "start", "session_id": "s", "parameters": {}}
    ended = subprocess.run(
        inheriting([sys.executable, str(ECHO)], closed=(1,)),
        input=json.dumps(invocation),
        stderr=PIPE,
        text=True,
        timeout=PATIENCE_S,
        env=environment(None, PYTHONPATH=str(SDK)),
    )
    assert ended.returncode == 1
    assert ended.stderr == "Error: standard output is closed: a runner reads the end of each turn there\n"


def standard_streams(pid: int) -> list[Path]:
    return [Path(f"/proc/{pid}/fd/{number}").readlink() for number in range(3)]


STATE = """
import json, os, signal, sys
are_null = [os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev for number in range(3)]
with open(sys.argv[1], "w") as file:
    json.dump([are_null, [str(signal.getsignal(each)) for each in (signal.SIGCHLD, signal.SIGTERM)],
               sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))], file)
"""
NORMALIZE = {
    "sdk": "from fsm_executor.inherited import normalize; normalize()",
    "runner": "from fsm_runner.process import inherited; inherited.normalize_streams(); inherited.normalize_signals()",
}
DISTURB = """
import os, signal, sys
for number in (signal.SIGCHLD, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
os.closerange(0, 3)
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""


def test_the_sdk_normalizes_inherited_state_as_the_runner_does(tmp_path: Path) -> None:
    states = {}
    for name, normalize in NORMALIZE.items():
        state = tmp_path / name
        program = f"import sys; sys.path[:0] = {[str(SDK), str(REPOSITORY)]!r}\n{normalize}\n{STATE}"
        subprocess.run([sys.executable, "-c", DISTURB, program, str(state)], check=True, timeout=60)
        states[name] = json.loads(state.read_text())
    assert states["sdk"] == states["runner"]
    assert states["sdk"] == [[True] * 3, [str(signal.SIG_DFL)] * 2, []]
