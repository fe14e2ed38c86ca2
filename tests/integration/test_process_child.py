import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from fsm_runner.process.child.child import OUTPUT_DRAIN_S, Child
from fsm_runner.process.exit_watch import ExitWatch, ThreadWatch, watch_exit
from tests.support.children import ENV, HERE, exit_of, is_reaped, open_descriptors, start_shell, without_drain_limit
from tests.support.processes import gone
from tests.support.watch import PATIENCE_S

Watch = Callable[[int, Callable[[], None]], ExitWatch]
Start = Callable[..., Child]


@pytest.fixture(params=[watch_exit, ThreadWatch], ids=["the system's watch", "thread"])
def start(request: pytest.FixtureRequest) -> Start:
    watch: Watch = request.param

    def start_child(*command: str, pipe_stdin: bool = False) -> Child:
        return Child.start(command, env=ENV, cwd=HERE, pipe_stdin=pipe_stdin, watch=watch)

    return start_child


class Signpost:
    """A named pipe through which a child reports that it has reached a certain point."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def reached(self) -> str:
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.fd, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), PATIENCE_S)
        finally:
            loop.remove_reader(self.fd)
        return os.read(self.fd, 1000).decode().strip()


@pytest.fixture
async def signpost(tmp_path: Path) -> AsyncIterator[Signpost]:
    post = Signpost(tmp_path / "signpost")
    yield post
    os.close(post.fd)


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")


async def test_output_and_exit_code_are_in_the_exit(start: Start) -> None:
    child = start("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    ended = await exit_of(child)
    assert (ended.code, ended.signal) == (3, None)
    assert (ended.stdout.text(), ended.stderr.text()) == ("out\n", "err\n")
    assert is_reaped(child.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_death_by_signal_has_the_exit_code_of_a_shell(start: Start, number: signal.Signals) -> None:
    ended = await exit_of(start("/bin/sh", "-c", f"kill -{number.value} $$"))
    assert (ended.code, ended.signal) == (128 + number, number.name)


async def test_a_realtime_signal_has_a_number_only() -> None:
    ended = await exit_of(start_shell("kill -40 $$"))
    assert (ended.code, ended.signal) == (168, "signal 40")


async def test_stdin_is_empty_and_the_child_leads_its_own_session() -> None:
    script = "import os, sys; print(sys.stdin.read() == '', os.getsid(0) == os.getpgid(0) == os.getpid())"
    ended = await exit_of(Child.start([sys.executable, "-c", script], env=ENV, cwd=HERE))
    assert ended.stdout.text() == "True True\n"


async def test_environment_and_working_directory_are_exactly_what_was_given(tmp_path: Path) -> None:
    child = Child.start(["/usr/bin/env"], env={"A": "1"}, cwd=tmp_path)
    assert (await exit_of(child)).stdout.text() == "A=1\n"
    child = Child.start(["/bin/pwd"], env={}, cwd=tmp_path)
    assert (await exit_of(child)).stdout.text() == f"{tmp_path}\n"


async def test_stop_ends_a_child_with_sigterm(start: Start) -> None:
    child = start("/bin/sleep", "1000")
    assert await child.stop() == "SIGTERM"
    ended = await exit_of(child)
    assert (ended.code, ended.signal) == (143, "SIGTERM")
    assert is_reaped(child.pid)


async def test_a_child_that_ignores_sigterm_is_killed(signpost: Signpost) -> None:
    child = start_shell('trap "" TERM; echo ready >"$1"; sleep 1000', signpost.path)
    await signpost.reached()
    assert await child.stop(term_grace_s=0.05) == "SIGKILL"
    assert (await exit_of(child)).signal == "SIGKILL"


async def test_a_child_that_ends_in_its_grace_is_not_killed(signpost: Signpost) -> None:
    child = start_shell('trap "echo bye; exit 0" TERM; echo ready >"$1"; sleep 1000 & wait', signpost.path)
    await signpost.reached()
    assert await child.stop() == "SIGTERM"
    ended = await exit_of(child)
    assert (ended.code, ended.stdout.text()) == (0, "bye\n")


async def test_stopping_an_ended_child_sends_no_signal(start: Start) -> None:
    child = start("/bin/sh", "-c", "exit 7")
    await exit_of(child)
    assert await child.stop() == "shutdown"
    assert (await exit_of(child)).code == 7


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system cannot tell an exit before it is noticed")
async def test_an_exit_that_was_not_noticed_yet_is_no_stop() -> None:
    child = start_shell("exit 7")
    until_it_is_a_zombie = os.WEXITED | os.WNOWAIT
    os.waitid(os.P_PID, child.pid, until_it_is_a_zombie)  # noqa: ASYNC222 - so that the loop cannot notice
    assert await child.stop() == "shutdown"


async def test_two_concurrent_stops_return_the_same(start: Start) -> None:
    child = start("/bin/sleep", "1000")
    assert await asyncio.gather(*(child.stop() for _ in range(3))) == ["SIGTERM"] * 3


async def test_the_shortest_grace_period_of_several_stops_counts(signpost: Signpost) -> None:
    child = start_shell('trap "" TERM; echo ready >"$1"; sleep 1000', signpost.path)
    await signpost.reached()
    patient = asyncio.create_task(child.stop(term_grace_s=1000))
    assert await child.stop(term_grace_s=0) == "SIGKILL"
    assert await patient == "SIGKILL"


async def test_a_cancelled_stop_leaves_the_child_supervised(signpost: Signpost) -> None:
    child = start_shell('trap "" TERM; echo ready >"$1"; sleep 1000', signpost.path)
    await signpost.reached()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.stop(), 0.05)
    child.kill()
    assert (await exit_of(child)).signal == "SIGKILL"


async def test_a_cancelled_wait_does_no_harm(start: Start) -> None:
    child = start("/bin/cat", pipe_stdin=True)
    waits = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waits[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    child.stdin.close()
    assert [(await wait).code for wait in waits[1:]] == [0, 0]


async def test_the_rest_of_the_group_is_gone_after_the_wait(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    without_drain_limit(monkeypatch)
    # The sleep holds the pipe, so the wait ends only with it. A process closes its pipes shortly before it is gone.
    ended = await exit_of(start("/bin/sh", "-c", "sleep 1000 & echo $!"))
    assert ended.code == 0
    await gone(int(ended.stdout.text()))


async def test_a_process_outside_the_group_delays_the_end_by_the_drain_limit_at_most(start: Start) -> None:
    script = """
import subprocess
print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
"""
    child = start(sys.executable, "-W", "ignore", "-c", script)
    exited_at_s = []
    child._exited.add_done_callback(lambda _: exited_at_s.append(time.monotonic()))
    ended = await exit_of(child)
    ended_at_s = time.monotonic()
    pid = int(ended.stdout.text())
    try:
        assert is_running(pid)
        assert ended_at_s - exited_at_s[0] > OUTPUT_DRAIN_S * 0.9
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_data_written_to_a_pipe_arrives(start: Start) -> None:
    child = start("/bin/cat", pipe_stdin=True)
    data = b"0123456789" * 30_000  # more than a pipe holds
    await asyncio.gather(child.stdin.write(data), child.stdin.write(b"end"))
    child.stdin.close()
    assert (await exit_of(child)).stdout.bytes() == data + b"end"


async def test_close_ends_everything_at_once(start: Start) -> None:
    child = start("/bin/sh", "-c", "sleep 1000 & wait", pipe_stdin=True)
    waiting = asyncio.create_task(child.wait())
    await asyncio.sleep(0)
    child.close()
    child.close()
    assert is_reaped(child.pid)
    assert (await waiting).signal == "SIGKILL"


def test_close_works_after_the_loop_was_closed(start: Start) -> None:
    async def begin() -> Child:
        return start("/bin/sleep", "1000", pipe_stdin=True)

    child = asyncio.run(begin())
    child.close()
    assert is_reaped(child.pid)
