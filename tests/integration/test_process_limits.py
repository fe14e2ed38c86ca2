"""Children that exceed their limits, and children that do not."""

import asyncio
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fsm_runner.process.child import child as child_module
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.limits import limiter
from fsm_runner.process.limits.launch_policy import CPU_KILL_S, CPU_SLACK_S, LaunchPolicy
from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.psutil_backend import processes_below
from fsm_runner.process.tree.usage import Usage
from tests.support.children import ENV, HERE, OWN_TREE_TAGS, exit_of, open_descriptors, subreaper_enabled
from tests.support.fifo import Fifo
from tests.support.logs import log_lines
from tests.support.processes import with_environment
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.linux(reason="the limits of Linux")

MIB = 1 << 20
GROWS = """
import sys
kept = []
while True:
    kept.append(bytearray(1 << 20))
"""
FORKS = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        if sys.argv[2:]:
            os.setsid()
        break
signal.pause()
"""
BURNS = "while True: pass"
DEAF = "import signal\nfor number in (signal.SIGTERM, signal.SIGXCPU): signal.signal(number, signal.SIG_IGN)\n"
BURNS_IN_CHILDREN = """
import os, signal, sys, time
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    child = os.fork()
    if child == 0:
        if sys.argv[1] == "orphans":
            os.setsid()
            if os.fork():
                os._exit(0)
        while time.process_time() < 0.25:
            pass
        os._exit(0)
    if sys.argv[1] == "ignored":
        try:
            os.wait()
        except ChildProcessError:
            pass
    else:
        os.wait()
        if sys.argv[1] == "orphans":
            time.sleep(0.3)
"""


SHOWS = "import resource, sys; print(resource.getrlimit(getattr(resource, sys.argv[1])))"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    descriptors = open_descriptors()
    with subreaper_enabled(exclusive=False):
        yield
    assert open_descriptors() == descriptors
    assert with_environment(OWN_TREE_TAGS) == []


def start(script: str, *arguments: str, **limits: float) -> Child:
    launch_policy = LaunchPolicy(ResourceLimits(**limits))  # type: ignore[arg-type]
    return Child.start([sys.executable, "-c", script, *arguments], env=ENV, cwd=HERE, launch_policy=launch_policy)


async def ended(script: str, *arguments: str, **limits: float) -> Exit:
    """Start a child with limits and return its exit."""
    child = start(script, *arguments, **limits)
    ended = await exit_of(child)
    await no_watcher()
    assert child.exceeded is None or child.exceeded == ended.exceeded
    return ended


async def no_watcher() -> None:
    """Let cancelled tasks end."""
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("limits of")] == []


async def test_memory() -> None:
    with log_lines() as lines:
        seen = await ended(GROWS, memory_bytes=200 * MIB)
    assert seen.exceeded is not None
    assert seen.exceeded.startswith("memory limit of 200 MiB exceeded (")
    assert seen.exceeded.endswith(" MiB in 1 process)")
    assert seen.signal == "SIGTERM"
    assert not seen.succeeded
    assert any(seen.exceeded in line for line in lines)


async def test_a_child_that_ignores_sigterm_and_uses_more_is_killed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "TERM_GRACE_S", 1000.0)
    seen = await ended(DEAF + GROWS, memory_bytes=100 * MIB)
    assert seen.signal == "SIGKILL"
    assert "memory limit of 100 MiB" in (seen.exceeded or "")


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "TERM_GRACE_S", 0.2)
    seen = await ended(f"{DEAF}kept = bytes(b'x' * {100 * MIB})\nsignal.pause()", memory_bytes=90 * MIB)
    assert seen.signal == "SIGKILL"
    assert "memory limit of 90 MiB" in (seen.exceeded or "")


async def test_memory_is_summed_over_processes_and_shared_memory_counts_once(tmp_path: Path) -> None:
    """6 x 60 MiB of shared memory are within 200 MiB; 6 x 60 MiB of private memory are not."""
    script = f"""
import os, sys
kept = bytearray(os.urandom(1 << 20)) * 60
children = 0
while children < 5 and os.fork():
    children += 1
if sys.argv[1] == "own":
    for place in range(0, len(kept), 4096):
        kept[place] = 1
with open({str(tmp_path / "gate")!r}, "rb", buffering=0) as gate:
    gate.readline()
for _ in range(children):
    os.wait()
"""
    async with Fifo(tmp_path / "gate") as gate:
        child = start(script, "shared", memory_bytes=200 * MIB)
        await measured(child, processes=6)
        for _ in range(6):
            gate.write_line()
        shared = await exit_of(child)
        assert (shared.code, shared.exceeded) == (0, None)
        own = await ended(script, "own", memory_bytes=200 * MIB)
        assert (own.exceeded or "").endswith(" processes)")


async def measured(child: Child, processes: int) -> None:
    """Return when the limiter has twice found at least this number of processes."""
    usage = child._limiter._usage
    seen_twice, seen, measure = asyncio.Event(), 0, usage.measure

    async def counting(most_processes: int | None = None):  # type: ignore[no-untyped-def]
        nonlocal seen
        found = await measure(most_processes)
        seen += found.processes >= processes
        if seen == 2:
            seen_twice.set()
        return found

    usage.measure = counting  # type: ignore[method-assign]
    await asyncio.wait_for(seen_twice.wait(), PATIENCE_S)


@pytest.mark.parametrize("spread", [(), ("sessions",)], ids=["group", "sessions"])
async def test_processes(spread: tuple[str, ...]) -> None:
    seen = await ended(FORKS, "40", *spread, processes=20)
    assert (seen.exceeded or "").startswith("process limit of 20 exceeded (")
    assert "processes" in (seen.exceeded or "")


async def test_the_allowed_number_of_processes_does_not_exceed_the_limit() -> None:
    child = start(FORKS, "9", processes=10)
    await measured(child, processes=10)
    assert child.exceeded is None
    await child.stop()
    assert (await exit_of(child)).exceeded is None


async def test_open_files() -> None:
    seen = await ended("kept = [open('/dev/null') for _ in range(100)]", open_files=50)
    assert seen.code == 1
    assert (seen.exceeded or "").startswith("limit of 50 open files in a process reached: Traceback")
    assert "Too many open files" in (seen.exceeded or "")


async def test_a_child_that_handles_the_limit_of_open_files_has_not_failed() -> None:
    script = """
kept = []
try:
    while True: kept.append(open("/dev/null"))
except OSError as fault:
    print(fault, len(kept))
"""
    seen = await ended(script, open_files=50)
    assert (seen.succeeded, seen.stdout.text()) == (True, "[Errno 24] Too many open files: '/dev/null' 47\n")


async def test_a_limit_of_open_files_needs_no_task() -> None:
    child = start(SHOWS, "RLIMIT_NOFILE", open_files=50)
    await no_watcher()
    assert (await exit_of(child)).stdout.text() == "(50, 50)\n"


async def test_a_limit_never_raises_that_of_the_runner() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (await ended(SHOWS, "RLIMIT_NOFILE", open_files=most + 1)).stdout.text() == f"({most}, {most})\n"


async def test_cpu_time() -> None:
    seen = await ended(BURNS, cpu_s=0.5)
    assert (seen.exceeded or "").startswith("CPU limit of 0.5 s exceeded (")
    assert (seen.exceeded or "").endswith(" s used)")


@pytest.mark.parametrize("kind", ["waited for", "ignored", "orphans"])
async def test_cpu_time_of_ended_processes_counts(kind: str) -> None:
    assert "CPU limit of 1 s exceeded" in ((await ended(BURNS_IN_CHILDREN, kind, cpu_s=1)).exceeded or "")


async def test_cpu_time_that_was_used_up_between_two_measurements_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "FIRST_PAUSE_S", 1000.0)
    seen = await ended("import time\nwhile time.process_time() < 0.3: pass", cpu_s=0.2)
    assert seen.code == 0
    assert "CPU limit of 0.2 s exceeded (0." in (seen.exceeded or "")


async def test_the_kernel_kills_a_process_that_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "FIRST_PAUSE_S", 1000.0)
    seen = await ended(BURNS, cpu_s=0.5)
    assert seen.signal == "SIGXCPU"
    assert "CPU limit of 0.5 s exceeded (" in (seen.exceeded or "")


async def test_the_kernels_cpu_limit_is_above_the_measured_one() -> None:
    soft_s = 125 + CPU_SLACK_S
    shown = (await ended(SHOWS, "RLIMIT_CPU", cpu_s=100)).stdout.text()
    assert shown == f"({soft_s}, {soft_s + CPU_KILL_S})\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output(stream: str) -> None:
    seen = await ended(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)", output_bytes=MIB)
    assert seen.exceeded == "output limit of 1 MiB exceeded"
    assert not seen.succeeded


async def test_log_lines_name_the_run() -> None:
    policy = LaunchPolicy(ResourceLimits(output_bytes=10))
    with log_lines() as lines:
        child = Child.start(["yes"], env=ENV, cwd=HERE, launch_policy=policy, label="run_1")
        await exit_of(child)
    assert f"ending process {child.pid} of run_1: output limit of 10 bytes exceeded" in lines


async def test_the_output_of_both_streams_is_summed() -> None:
    script = "import sys; sys.stdout.write('x' * int(sys.argv[1])); sys.stderr.write('x' * 1000)"
    assert (await ended(script, "1000", output_bytes=2000)).exceeded is None
    assert (await ended(script, "1001", output_bytes=2000)).exceeded == "output limit of 2,000 bytes exceeded"


async def test_a_child_that_ignores_sigterm_and_writes_more_is_killed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "TERM_GRACE_S", 1000.0)
    seen = await ended(f"{DEAF}import sys\nwhile True: sys.stdout.write('x' * 1000)", output_bytes=MIB)
    assert (seen.exceeded, seen.signal) == ("output limit of 1 MiB exceeded", "SIGKILL")


async def test_a_child_within_its_limits_completes() -> None:
    generous = {"memory_bytes": 1 << 30, "processes": 10, "open_files": 100, "cpu_s": 100, "output_bytes": MIB}
    child = start("print(input())", **generous)
    assert [task.get_name() for task in asyncio.all_tasks()].count(f"limits of process {child.pid}") == 1
    seen = await exit_of(child)
    assert seen.exceeded is None
    await no_watcher()


async def test_a_child_without_limits_has_no_task() -> None:
    child = Child.start(["/bin/cat"], env=ENV, cwd=HERE, pipe_stdin=True, launch_policy=LaunchPolicy(NO_LIMITS))
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("limits of")] == []
    child.stdin.close()
    assert (await exit_of(child)).succeeded


async def test_other_children_continue() -> None:
    others = [start("import signal; signal.pause()", memory_bytes=200 * MIB) for _ in range(3)]
    assert (await exit_of(start(GROWS, memory_bytes=200 * MIB))).exceeded
    assert [each.exceeded for each in others] == [None] * 3
    assert [await each.stop() for each in others] == ["SIGTERM"] * 3


async def test_a_closed_child_has_no_task() -> None:
    child = start(BURNS, cpu_s=1000)
    child.close()
    await no_watcher()


async def test_a_failed_measurement_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(GROWS, memory_bytes=200 * MIB)
    measure, failed = child._limiter._usage.measure, 0

    async def failing(most_processes: int | None = None):  # type: ignore[no-untyped-def]
        nonlocal failed
        failed += 1
        if failed == 1:
            raise OSError(24, "no descriptor left")
        return await measure(most_processes)

    monkeypatch.setattr(child._limiter._usage, "measure", failing)
    assert "memory limit" in ((await exit_of(child)).exceeded or "")
    assert failed > 1


async def test_a_child_whose_limits_cannot_be_measured_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start("import signal; signal.pause()", memory_bytes=200 * MIB)

    async def broken(most_processes: int | None = None) -> Usage:
        raise ValueError("a defect")

    monkeypatch.setattr(child._limiter._usage, "measure", broken)
    ended = await exit_of(child)
    assert (ended.signal, ended.exceeded) == (
        "SIGKILL",
        "killed, because its limits could not be watched: ValueError('a defect')",
    )


async def test_measuring_an_idle_child_is_cheap() -> None:
    child = start("import signal; signal.pause()", memory_bytes=1 << 30, processes=10, cpu_s=1000)
    await measured(child, processes=1)
    usage = child._limiter._usage
    began = time.process_time()
    for _ in range(200):
        await usage.measure()
    assert (time.process_time() - began) / 200 < 0.002
    await child.stop()


async def test_psutil_finds_the_same_processes_as_procfs() -> None:
    """psutil is used on systems without /proc."""
    child = start(FORKS, "3", processes=100)
    await measured(child, processes=4)
    ours = {each.pid: each for each in child._descendants.processes()}
    theirs = {each.pid: each for each in processes_below(child.pid)}
    assert theirs.keys() == ours.keys()
    assert {each.session for each in theirs.values()} == {child.pid}
    for pid, each in theirs.items():
        assert abs(each.resident_pages - ours[pid].resident_pages) * os.sysconf("SC_PAGE_SIZE") < MIB
        assert each.started_ticks > 0
    await child.stop()
    assert list(processes_below(child.pid)) == []


async def test_shared_memory_is_read_from_the_kernel() -> None:
    share = procfs.proportional_bytes(os.getpid())
    assert share is not None
    assert 0 < share <= psutil.Process().memory_info().rss + MIB
    assert procfs.proportional_bytes(2**22 + 1) is None
