"""What a child says about the work of its processes: their CPU time, and when they last wrote something."""

import asyncio
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fsm_runner.process.child.child import Child
from fsm_runner.process.child.pipes import LastRead
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.usage import TreeUsage, Usage
from tests.support.children import ENV, HERE, subreaper_enabled
from tests.support.fifo import Fifo
from tests.support.watch import PATIENCE_S

ENOUGH_S = 0.2
LOOK_INTERVAL_S = 0.02
BURN = "while True: pass"
BURN_AND_END = f"import time\nwhile time.process_time() < {2 * ENOUGH_S}: pass"


def start(script: str, burn: str = BURN, limits: ResourceLimits = NO_LIMITS, *arguments: str) -> Child:
    """Start a shell in which `$BURN` is a command that uses CPU time."""
    env = {**ENV, "PYTHON": sys.executable, "CODE": burn}
    script = f'burn() {{ "$PYTHON" -IS -c "$CODE"; }}\n{script}'
    return Child.start(
        ["/bin/sh", "-c", script, "sh", *arguments], env=env, cwd=HERE, launch_policy=LaunchPolicy(limits)
    )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing reports what this waits for
            await asyncio.sleep(LOOK_INTERVAL_S)


async def uses_cpu_time(child: Child) -> None:
    """Return when the child reports that its processes have used CPU time."""
    async with asyncio.timeout(PATIENCE_S):
        while await child.cpu_s() < ENOUGH_S:  # noqa: ASYNC110 - nothing reports what this waits for
            await asyncio.sleep(LOOK_INTERVAL_S)


async def next_read(child: Child, before: LastRead) -> LastRead:
    await until(lambda: child.output.last_read != before)
    return child.output.last_read


@pytest.mark.parametrize(
    ("script", "burn"),
    [
        pytest.param("burn", BURN, id="child"),
        pytest.param("burn; exec sleep 1000", BURN_AND_END, id="ended child"),
    ],
)
async def test_cpu_time_includes_processes_below_the_child(script: str, burn: str) -> None:
    child = start(script, burn)
    try:
        await uses_cpu_time(child)
    finally:
        await child.stop(term_grace_s=0)


async def test_cpu_time_is_measured_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "offers_processes", lambda: False)
    child = start("burn")
    try:
        await uses_cpu_time(child)
    finally:
        await child.stop(term_grace_s=0)


@pytest.mark.linux(reason="on macOS, the parents of these processes have ended")
@pytest.mark.parametrize(
    ("script", "burn"),
    [
        pytest.param('setsid "$PYTHON" -IS -c "$CODE" & exec sleep 1000', BURN, id="own session"),
        pytest.param('(setsid "$PYTHON" -IS -c "$CODE" & :); exec sleep 1000', BURN, id="orphan"),
        pytest.param('(setsid "$PYTHON" -IS -c "$CODE" & :); exec sleep 1000', BURN_AND_END, id="ended orphan"),
        pytest.param('(env -i setsid "$PYTHON" -IS -c "$CODE" & :); exec sleep 1000', BURN, id="orphan without tags"),
    ],
)
async def test_cpu_time_includes_processes_that_have_left_the_child(script: str, burn: str) -> None:
    with subreaper_enabled(exclusive=False):
        child = start(script, burn)
        try:
            await uses_cpu_time(child)
        finally:
            await child.stop(term_grace_s=0)


async def test_a_sleeping_child_uses_no_cpu_time(tmp_path: Path) -> None:
    async with Fifo(tmp_path / "ready") as ready:
        child = start('echo ready > "$1"; exec sleep 1000', BURN, NO_LIMITS, str(ready.path))
        try:
            await ready.line()
            first_s = await child.cpu_s()
            await asyncio.sleep(LOOK_INTERVAL_S)
            # One tick may have been begun by the start of `sleep`.
            assert await child.cpu_s() - first_s <= 0.01
        finally:
            await child.stop(term_grace_s=0)


@pytest.mark.linux(reason="the limits of Linux")
async def test_a_child_with_measured_limits_is_not_measured_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start("burn", BURN, ResourceLimits(cpu_s=1000))
    try:
        await uses_cpu_time(child)
        measured = 0

        async def measure(usage: TreeUsage, most_processes: int | None = None) -> Usage:
            nonlocal measured
            measured += 1
            return Usage(cpu_s=7.0)

        monkeypatch.setattr(TreeUsage, "measure", measure)
        await until(lambda: measured)
        before = measured
        assert {await child.cpu_s() for _ in range(10)} == {7.0}
        assert measured == before
    finally:
        await child.stop(term_grace_s=0)


@pytest.mark.linux(reason="the limits of Linux")
async def test_a_failed_measurement_is_reported_until_one_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start("exec sleep 1000", BURN, ResourceLimits(cpu_s=1000))
    measure, failed = TreeUsage.measure, asyncio.Event()

    async def fail(usage: TreeUsage, most_processes: int | None = None) -> Usage:
        failed.set()
        raise OSError(24, "Too many open files")

    try:
        monkeypatch.setattr(TreeUsage, "measure", fail)
        await asyncio.wait_for(failed.wait(), PATIENCE_S)
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Too many open files"):
            await child.cpu_s()
        monkeypatch.setattr(TreeUsage, "measure", measure)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await child.cpu_s()
                    break
                except OSError:
                    await asyncio.sleep(LOOK_INTERVAL_S)
    finally:
        await child.stop(term_grace_s=0)


async def test_the_last_output_has_its_time_and_its_stream(tmp_path: Path) -> None:
    now = asyncio.get_running_loop().time
    async with Fifo(tmp_path / "gate") as gate:
        script = 'while read line < "$1"; do case $line in err) echo x >&2;; *) echo x;; esac; done'
        child = start(script, BURN, NO_LIMITS, str(gate.path))
        try:
            assert child.output.last_read.at_s == -math.inf
            before, last_s = child.output.last_read, now()
            for stream in ("stdout", "stderr", "stderr", "stdout"):
                gate.write_line("err" if stream == "stderr" else "out")
                before = await next_read(child, before)
                assert before.stream == stream
                assert last_s < before.at_s <= now()
                last_s = now()
            child.output.forget()
            assert child.output.last_read == before
        finally:
            await child.stop(term_grace_s=0)
