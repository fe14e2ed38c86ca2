import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import InputClosed, ProcessStuck, SpawnFailed
from fsm_runner.process.exit_watch import ExitWatch
from fsm_runner.process.reaping import LOST_STATUS_CODE
from tests.support.children import ENV, HERE, exit_of, is_reaped, open_descriptors, start_shell
from tests.support.open_files import descriptors_left
from tests.support.watch import PATIENCE_S


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


async def test_no_descriptor_of_the_runner_is_inherited() -> None:
    others = [Child.start(["/bin/cat"], env=ENV, cwd=HERE, pipe_stdin=True) for _ in range(3)]
    script = "import os; print(sorted(fd for fd in map(int, os.listdir('/dev/fd')) if os.path.exists(f'/dev/fd/{fd}')))"
    ended = await exit_of(Child.start([sys.executable, "-c", script], env=ENV, cwd=HERE))
    assert ended.stdout.text() == "[0, 1, 2]\n"
    for other in others:
        other.stdin.close()
        assert (await exit_of(other)).code == 0


MEASURE_100_MB = """
import asyncio, resource, sys
from pathlib import Path
from fsm_runner.process.child.child import OUTPUT_LIMIT_BYTES, Child

async def main():
    await Child.start(["/bin/true"], env={}, cwd=Path("/")).wait()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    script = "head -c 100000000 /dev/zero >&%s"
    ended = await Child.start(["/bin/sh", "-c", script % sys.argv[1]], env={"PATH": sys.argv[2]}, cwd=Path("/")).wait()
    capture = ended.stdout if sys.argv[1] == "1" else ended.stderr
    assert ended.code == 0 and capture.total_bytes == 100_000_000, ended
    assert len(capture.bytes()) == OUTPUT_LIMIT_BYTES
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(growth if sys.platform == "darwin" else growth * 1024)

asyncio.run(main())
"""


@pytest.mark.parametrize("stream", ["1", "2"])
def test_100_mb_of_output_neither_block_nor_fill_memory(stream: str) -> None:
    command = [sys.executable, "-W", "error", "-c", MEASURE_100_MB, stream, ENV["PATH"]]
    measured = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert measured.stderr == ""
    assert int(measured.stdout) < 40_000_000


async def test_noisy_children_do_not_starve_the_loop() -> None:
    noisy = [start_shell("cat /dev/zero") for _ in range(3)]
    quiet = [await exit_of(start_shell("echo quiet")) for _ in range(5)]
    assert [ended.stdout.text() for ended in quiet] == ["quiet\n"] * 5
    assert await asyncio.gather(*(child.stop() for child in noisy)) == ["SIGTERM"] * 3


async def test_a_hundred_children_at_once() -> None:
    children = [start_shell("echo $1; exit $1", str(number)) for number in range(100)]
    ends = await asyncio.gather(*(exit_of(child) for child in children))
    assert [(ended.code, ended.stdout.text()) for ended in ends] == [(n, f"{n}\n") for n in range(100)]
    assert all(is_reaped(child.pid) for child in children)


async def test_writing_to_a_child_that_has_ended_fails() -> None:
    child = Child.start(["/bin/true"], env=ENV, cwd=HERE, pipe_stdin=True)
    with pytest.raises(InputClosed):
        await child.stdin.write(b"x" * 1_000_000)
    await exit_of(child)
    with pytest.raises(InputClosed):
        await child.stdin.write(b"x")


async def test_a_pending_write_fails_when_the_child_is_killed() -> None:
    child = Child.start(["/bin/sleep", "1000"], env=ENV, cwd=HERE, pipe_stdin=True)
    writing = asyncio.create_task(child.stdin.write(b"x" * 1_000_000))
    await asyncio.sleep(0)
    child.kill()
    with pytest.raises(InputClosed):
        await asyncio.wait_for(writing, PATIENCE_S)
    assert (await exit_of(child)).signal == "SIGKILL"


async def test_a_child_without_a_pipe_has_no_stdin() -> None:
    child = start_shell("true")
    with pytest.raises(ValueError, match="without a pipe"):
        _ = child.stdin
    await exit_of(child)


async def test_an_exit_status_that_the_kernel_dropped_is_a_failure() -> None:
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        ended = await exit_of(start_shell("echo hello"))
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert (ended.code, ended.stdout.text()) == (LOST_STATUS_CODE, "hello\n")


@pytest.mark.parametrize("count", range(12))
async def test_a_lack_of_descriptors_leaks_none(count: int) -> None:
    child = None
    try:
        with descriptors_left(count):
            child = Child.start(["/bin/echo", "hello"], env=ENV, cwd=HERE, pipe_stdin=True)
    except SpawnFailed as error:
        assert "too many open files" in str(error)
    assert (child is None) == (count < 8)
    if child is not None:
        assert (await exit_of(child)).stdout.text() == "hello\n"


async def test_a_child_that_cannot_be_supervised_is_killed() -> None:
    pids = []

    def no_thread(pid: int, on_exit: Callable[[], None]) -> ExitWatch:
        pids.append(pid)
        raise RuntimeError("can't start new thread")

    with pytest.raises(SpawnFailed, match="can't start new thread"):
        Child.start(["/bin/sleep", "1000"], env=ENV, cwd=HERE, watch=no_thread)
    assert is_reaped(pids[0])


class LateWatch:
    """Reports the exit on request, so that the child looks like one that the kernel holds."""

    def __init__(self, pid: int, on_exit: Callable[[], None]) -> None:
        self.notice = on_exit

    def cancel(self) -> None:
        pass

    def wait_blocking(self, timeout_s: float) -> bool:
        return False


def start_stuck() -> tuple[Child, LateWatch]:
    watches: list[LateWatch] = []

    def watch(pid: int, on_exit: Callable[[], None]) -> ExitWatch:
        watches.append(LateWatch(pid, on_exit))
        return watches[0]

    return Child.start(["/bin/sleep", "1000"], env=ENV, cwd=HERE, watch=watch), watches[0]


async def test_a_child_that_sigkill_does_not_end_is_reported_and_stays_supervised() -> None:
    child, watch = start_stuck()
    with pytest.raises(ProcessStuck, match=rf"process {child.pid} is still there 0\.02 s after SIGKILL"):
        await child.stop(term_grace_s=0.01, kill_grace_s=0.02)
    asyncio.get_running_loop().call_soon(watch.notice)
    assert (await exit_of(child)).code > 128
    assert is_reaped(child.pid)


async def test_close_does_not_wait_forever() -> None:
    child, _ = start_stuck()
    with pytest.raises(ProcessStuck):
        child.close(kill_grace_s=0)
    child.close()
    await asyncio.to_thread(os.waitpid, child.pid, 0)
