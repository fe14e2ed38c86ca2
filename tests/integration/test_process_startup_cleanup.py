"""A runner that starts kills what an earlier process of the same runner has left behind."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fsm_runner.process.leftovers import leftover_killer
from fsm_runner.process.leftovers.startup_cleanup import LeftoversRemain, kill_leftovers
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, runner_tag
from fsm_runner.process.tree.rlimit_tag import rlimit_tag, with_rlimit_tag
from tests.support.children import ENV, HERE
from tests.support.fifo import Fifo
from tests.support.processes import gone
from tests.support.watch import PATIENCE_S

IDENTITY = "0123456789abcdef"
EARLIER = [runner_tag(IDENTITY, process) for process in ("earlier", "much-earlier")]
CLEANUP = """
import sys
from loguru import logger
from fsm_runner.process.leftovers.startup_cleanup import kill_leftovers
logger.remove()
print(kill_leftovers(sys.argv[1:]))
"""
WITHOUT_PIDFDS = """
from fsm_runner.process.tree import procfs
procfs.offers_pidfds = lambda: False
"""
no_setsid = pytest.mark.skipif(shutil.which("setsid") is None, reason="this system has no `setsid`")
ORPHAN = "echo $$ >$SIGNS; exec sleep 1000"


@pytest.fixture
def left() -> Iterator[ExitStack]:
    """Holds the processes that a test leaves behind."""
    with ExitStack() as left:
        yield left


@contextmanager
def process(script: str, tag: str | None, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    env = ENV | variables | ({} if tag is None else {RUNNER_TAG_VARIABLE: tag})
    started = subprocess.Popen(["/bin/sh", "-c", script], env=env, start_new_session=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def start(left: ExitStack, tag: str | None, script: str = "exec sleep 1000") -> "subprocess.Popen[bytes]":
    return left.enter_context(process(script, tag))


async def killed(preamble: str = "") -> int:
    """Return how many a cleanup has killed. It runs in a process of its own, because it spares its descendants."""
    command = [sys.executable, "-W", "error", "-c", preamble + CLEANUP, *EARLIER]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=HERE)
    assert done.stderr == ""
    return int(done.stdout)


def died(left: "subprocess.Popen[bytes]") -> bool:
    return left.wait(PATIENCE_S) == -signal.SIGKILL


async def test_leftovers_of_earlier_processes_are_killed(left: ExitStack) -> None:
    one, other = (start(left, tag) for tag in EARLIER)
    ignoring = start(left, runner_tag(IDENTITY, "earlier"), "trap '' TERM HUP INT; sleep 1000")
    assert await killed() >= 3
    assert (died(one), died(other), died(ignoring)) == (True, True, True)
    assert await killed() == 0


async def test_other_processes_live_on(left: ExitStack) -> None:
    alive, another, longer, untagged = (
        start(left, tag)
        for tag in (runner_tag(IDENTITY, "alive"), runner_tag("f" * 16, "earlier"), f"{EARLIER[0]}0", None)
    )
    earlier = start(left, runner_tag(IDENTITY, "earlier"))
    assert await killed() == 1
    assert died(earlier)
    assert [each.poll() for each in (alive, another, longer, untagged)] == [None] * 4


@no_setsid
async def test_an_orphan_is_found(signs: Fifo) -> None:
    script = "setsid sh -c 'sh -c \"$ORPHAN\" &' &"
    with process(script, runner_tag(IDENTITY, "earlier"), ORPHAN=ORPHAN, SIGNS=str(signs.path)) as parent:
        pid = await signs.pid()
        assert parent.wait(PATIENCE_S) == 0
        assert await killed() == 1
        await gone(pid)


@no_setsid
async def test_a_process_below_a_tagged_one_needs_no_tag(signs: Fifo) -> None:
    script = 'env -i SIGNS=$SIGNS setsid sh -c "$ORPHAN" & wait'
    with process(script, runner_tag(IDENTITY, "earlier"), ORPHAN=ORPHAN, SIGNS=str(signs.path)) as parent:
        pid = await signs.pid()
        assert await killed() == 2
        await gone(pid)
        assert died(parent)


@no_setsid
@pytest.mark.linux(reason="the resource limit that serves as a tag")
async def test_an_orphan_that_cleared_its_environment_is_found(signs: Fifo) -> None:
    script = 'env -i SIGNS=$SIGNS ORPHAN="$ORPHAN" setsid sh -c \'sh -c "$ORPHAN" &\' &'
    with (
        with_rlimit_tag(rlimit_tag(EARLIER[0], 7)),
        process(script, EARLIER[0], ORPHAN=ORPHAN, SIGNS=str(signs.path)) as parent,
    ):
        pid = await signs.pid()
        assert parent.wait(PATIENCE_S) == 0
    assert await killed() == 1
    await gone(pid)


@pytest.mark.parametrize("has_rlimit_tag", [False, True], ids=["environment", "rlimit tag"])
async def test_a_runner_that_an_earlier_run_has_started_spares_itself_and_its_children(
    left: ExitStack, has_rlimit_tag: bool
) -> None:
    earlier = start(left, runner_tag(IDENTITY, "earlier"))
    env = {**os.environ, RUNNER_TAG_VARIABLE: runner_tag(IDENTITY, "the-run")}
    inside = f"""
import psutil
own = psutil.Popen(["sleep", "1000"])
{CLEANUP}
print(own.poll(), own.status() == psutil.STATUS_STOPPED)
own.kill()
own.wait()
"""
    command = ["/bin/sh", "-c", '"$@"; exit', "sh", sys.executable, "-c", inside, *EARLIER]
    with with_rlimit_tag(rlimit_tag(EARLIER[0], 7) if has_rlimit_tag else None):
        started = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
    stdout, _ = await asyncio.wait_for(started.communicate(), PATIENCE_S)
    assert (started.returncode, stdout) == (0, b"1\nNone False\n")
    assert died(earlier)


async def test_leftovers_that_do_not_end_are_named(left: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    held = start(left, runner_tag(IDENTITY, "earlier"))
    monkeypatch.setattr(leftover_killer, "_relatives", lambda table: {os.getpid()})
    monkeypatch.setattr(procfs, "send", lambda process, number: None)
    with pytest.raises(LeftoversRemain, match=rf"{held.pid} \((sh|sleep)\)"):
        await asyncio.to_thread(kill_leftovers, EARLIER, stuck_s=0.05)
    assert held.poll() is None


async def test_leftovers_are_killed_on_systems_without_pidfds(left: ExitStack) -> None:
    earlier = start(left, EARLIER[0], "env -i sleep 1000 & wait")
    other = start(left, None)
    assert await killed(WITHOUT_PIDFDS) >= 1
    assert died(earlier)
    assert other.poll() is None
