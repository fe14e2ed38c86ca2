"""What an earlier process of a runner has left behind is ended when the next one starts."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from fsm_runner.process.leftovers import startup_cleanup as sweep_module
from fsm_runner.process.leftovers.startup_cleanup import ProcessesLeft, sweep
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE, runner_tag
from fsm_runner.process.tree.rlimit_tag import rlimit_tag, with_rlimit_tag
from tests.support.children import ENV, HERE
from tests.support.fifo import Fifo
from tests.support.processes import gone
from tests.support.watch import PATIENCE_S

IDENTITY = "0123456789abcdef"
EARLIER = [runner_tag(IDENTITY, process) for process in ("earlier", "much-earlier")]
SWEEP = """
import sys
from loguru import logger
from fsm_runner.process.leftovers.startup_cleanup import sweep
logger.remove()
print(sweep(sys.argv[1:]))
"""
no_setsid = pytest.mark.skipif(shutil.which("setsid") is None, reason="this system has no `setsid`")
STRAY = "echo $$ >$SIGNS; exec sleep 1000"


@pytest.fixture
def left() -> Iterator[ExitStack]:
    """What tests leave behind for a sweep."""
    with ExitStack() as left:
        yield left


@pytest.fixture
async def signs(tmp_path: Path) -> AsyncIterator[Fifo]:
    async with Fifo(tmp_path / "signs") as fifo:
        yield fifo


@contextmanager
def process(script: str, owner: str | None, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    env = ENV | variables | ({} if owner is None else {RUNNER_TAG_VARIABLE: owner})
    started = subprocess.Popen(["/bin/sh", "-c", script], env=env, start_new_session=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def start(left: ExitStack, owner: str | None, script: str = "exec sleep 1000") -> "subprocess.Popen[bytes]":
    return left.enter_context(process(script, owner))


async def swept() -> int:
    """How many a sweep has killed; in a process of its own, since it spares what its own process has started."""
    command = [sys.executable, "-W", "error", "-c", SWEEP, *EARLIER]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=HERE)
    assert done.stderr == ""
    return int(done.stdout)


def died(left: "subprocess.Popen[bytes]") -> bool:
    return left.wait(PATIENCE_S) == -signal.SIGKILL


async def test_what_earlier_processes_have_left_is_killed(left: ExitStack) -> None:
    one, other = (start(left, owner) for owner in EARLIER)
    deaf = start(left, runner_tag(IDENTITY, "earlier"), "trap '' TERM HUP INT; sleep 1000")
    assert await swept() >= 3
    assert (died(one), died(other), died(deaf)) == (True, True, True)
    assert await swept() == 0


async def test_all_others_live_on(left: ExitStack) -> None:
    alive, another, longer, unmarked = (
        start(left, owner)
        for owner in (runner_tag(IDENTITY, "alive"), runner_tag("f" * 16, "earlier"), f"{EARLIER[0]}0", None)
    )
    earlier = start(left, runner_tag(IDENTITY, "earlier"))
    assert await swept() == 1
    assert died(earlier)
    assert [each.poll() for each in (alive, another, longer, unmarked)] == [None] * 4


@no_setsid
async def test_who_has_lost_its_parent_is_found(signs: Fifo) -> None:
    script = "setsid sh -c 'sh -c \"$STRAY\" &' &"
    with process(script, runner_tag(IDENTITY, "earlier"), STRAY=STRAY, SIGNS=str(signs.path)) as parent:
        pid = await signs.pid()
        assert parent.wait(PATIENCE_S) == 0
        assert await swept() == 1
        await gone(pid)


@no_setsid
async def test_who_is_below_a_marked_one_needs_no_mark(signs: Fifo) -> None:
    script = 'env -i SIGNS=$SIGNS setsid sh -c "$STRAY" & wait'
    with process(script, runner_tag(IDENTITY, "earlier"), STRAY=STRAY, SIGNS=str(signs.path)) as parent:
        pid = await signs.pid()
        assert await swept() == 2
        await gone(pid)
        assert died(parent)


@no_setsid
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit that serves as a tag")
async def test_who_has_lost_its_parent_and_its_environment_is_found(signs: Fifo) -> None:
    script = 'env -i SIGNS=$SIGNS STRAY="$STRAY" setsid sh -c \'sh -c "$STRAY" &\' &'
    with (
        with_rlimit_tag(rlimit_tag(EARLIER[0], 7)),
        process(script, EARLIER[0], STRAY=STRAY, SIGNS=str(signs.path)) as parent,
    ):
        pid = await signs.pid()
        assert parent.wait(PATIENCE_S) == 0
    assert await swept() == 1
    await gone(pid)


@pytest.mark.parametrize("has_rlimit_tag", [False, True], ids=["environment", "rlimit tag"])
async def test_a_runner_that_an_earlier_run_has_started_spares_itself_and_its_own(
    left: ExitStack, has_rlimit_tag: bool
) -> None:
    earlier = start(left, runner_tag(IDENTITY, "earlier"))
    env = {**os.environ, RUNNER_TAG_VARIABLE: runner_tag(IDENTITY, "the-run")}
    inside = f"""
import psutil
own = psutil.Popen(["sleep", "1000"])
{SWEEP}
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


async def test_what_does_not_end_is_named(left: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    held = start(left, runner_tag(IDENTITY, "earlier"))
    monkeypatch.setattr(sweep_module, "_ourselves", lambda: {psutil.Process()})
    monkeypatch.setattr(sweep_module, "_send", lambda process, number: None)
    with pytest.raises(ProcessesLeft, match=rf"{held.pid} \((sh|sleep)\)"):
        await asyncio.to_thread(sweep, EARLIER, stuck_s=0.05)
    assert held.poll() is None
