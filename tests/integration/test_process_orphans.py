"""Descendants that have left the group of a child end with the child."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm_runner.process.child.child import Child
from fsm_runner.process.tree import subreaper
from fsm_runner.process.tree.subreaper import SUBREAPER
from tests.support.children import ENV, HERE, exit_of, start_shell, subreaper_enabled, without_drain_limit
from tests.support.fifo import Fifo
from tests.support.processes import gone, is_there, reaped
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.linux(reason="adoption of orphaned processes")

ORPHAN = "echo $$ >$SIGNS; exec sleep 1000"
IGNORING = "trap '' TERM HUP INT; echo $$ >$SIGNS; sleep 1000 & wait; sleep 1000"
LEFT_BEHIND = {
    "in another session": 'setsid sh -c "$ORPHAN" &',
    "in another group": 'set -m; sh -c "$ORPHAN" &',
    "in another group, environment cleared": 'set -m; env -i SIGNS=$SIGNS sh -c "$ORPHAN" &',
    "forked twice": "setsid sh -c 'sh -c \"$ORPHAN\" &' &",
    "forked thrice, each in a session": 'setsid sh -c \'setsid sh -c "setsid sh -c \\"\\$ORPHAN\\" & exit" & exit\' &',
    "below a session that lives": "setsid sh -c 'setsid sh -c \"$ORPHAN\" & sleep 1000' &",
    "below a session that lives, environment cleared": (
        "setsid sh -c 'env -i SIGNS=$SIGNS setsid sh -c \"$ORPHAN\" & sleep 1000' &"
    ),
    "ignoring SIGHUP": 'nohup sh -c "$ORPHAN" &',
    "ignoring SIGHUP, in another session": 'nohup setsid sh -c "$ORPHAN" &',
    "ignoring signals, in another session": 'setsid sh -c "$IGNORING" &',
}


@pytest.fixture(autouse=True, params=[True, False], ids=["exclusive", "among others"])
def adopted(request: pytest.FixtureRequest) -> Iterator[None]:
    with subreaper_enabled(exclusive=request.param):
        yield


def start(script: str, signs: Fifo, go: Fifo) -> Child:
    """Its descendant writes its process id to `signs`. The child exits when there is a line in `go`."""
    env = {**ENV, "ORPHAN": ORPHAN, "IGNORING": IGNORING, "SIGNS": str(signs.path), "GO": str(go.path)}
    return Child.start(["/bin/sh", "-c", f"{script}\nread line <$GO"], env=env, cwd=HERE)


@pytest.mark.parametrize("script", LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
async def test_descendants_are_gone_after_the_wait(script: str, signs: Fifo, go: Fifo) -> None:
    child = start(script, signs, go)
    pid = await signs.pid()
    go.write_line()
    assert (await exit_of(child)).code == 0
    assert not is_there(pid)


@pytest.mark.parametrize("script", LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
async def test_descendants_are_gone_after_a_stop(script: str, signs: Fifo, go: Fifo) -> None:
    child = start(script, signs, go)
    pid = await signs.pid()
    assert await child.stop() == "SIGTERM"
    assert not is_there(pid)


@pytest.mark.parametrize("script", LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
async def test_descendants_are_gone_after_a_close(script: str, signs: Fifo, go: Fifo) -> None:
    child = start(script, signs, go)
    pid = await signs.pid()
    child.close()
    assert not is_there(pid)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_untagged_descendant_is_found_by_its_parent(how: str, signs: Fifo, go: Fifo) -> None:
    child = start('env -i SIGNS=$SIGNS setsid sh -c "$ORPHAN" &', signs, go)
    pid = await signs.pid()
    if how == "stop":
        await child.stop()
    else:
        child.kill()
        await exit_of(child)
    assert not is_there(pid)


TREE = """
import os, signal, sys

def grow(depth):
    os.write(int(sys.argv[1]), b"%d\\n" % os.getpid())
    for branch in range(3 if depth else 0):
        if os.fork() == 0:
            if branch:
                os.setsid()
            if branch == 2 and os.fork():  # its child has lost its parent
                os._exit(0)
            grow(depth - 1)
    signal.pause()

sys.argv[1] = os.open(sys.argv[1], os.O_WRONLY)
grow(3)
"""


async def test_a_tree_of_sessions_and_orphans_is_killed_as_a_whole(signs: Fifo) -> None:
    child = Child.start([sys.executable, "-c", TREE, str(signs.path)], env=ENV, cwd=HERE)
    pids = [await signs.pid() for _ in range(1 + 3 + 9 + 27)]
    assert await child.stop() == "SIGTERM"
    assert [pid for pid in pids if is_there(pid)] == []


async def test_a_descendant_that_holds_the_output_does_not_delay_the_end(
    signs: Fifo, go: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drain_limit(monkeypatch)
    child = start(LEFT_BEHIND["in another session"], signs, go)
    await signs.pid()
    go.write_line()
    assert (await exit_of(child)).code == 0


async def test_descendants_of_other_children_are_spared(tmp_path: Path, signs: Fifo, go: Fifo) -> None:
    async with Fifo(tmp_path / "other-go") as other_go:
        child, other = start(LEFT_BEHIND["forked twice"], signs, go), None
        pid = await signs.pid()
        other = start(LEFT_BEHIND["forked twice"], signs, other_go)
        others_pid = await signs.pid()
        other_go.write_line()
        await exit_of(other)
        assert (is_there(pid), is_there(others_pid)) == (True, False)
        await child.stop()
        assert not is_there(pid)


async def test_orphans_that_end_are_reaped_while_their_child_lives(signs: Fifo, go: Fifo) -> None:
    child = start("setsid sh -c 'sh -c \"echo \\$\\$ >\\$SIGNS\" &' &", signs, go)
    pid = await signs.pid()
    await gone(pid)
    SUBREAPER.reap_orphans()
    assert not is_there(pid)
    await child.stop()


async def test_an_orphan_that_leads_a_session_is_reaped_once_it_was_seen(tmp_path: Path, signs: Fifo, go: Fifo) -> None:
    async with Fifo(tmp_path / "end") as end:
        child = start(f"(setsid sh -c 'echo $$ >$SIGNS; read line <{end.path}' &)", signs, go)
        pid = await signs.pid()
        SUBREAPER.reap_orphans()
        assert is_there(pid)
        end.write_line()
        await gone(pid)
        SUBREAPER.reap_orphans()
        assert not is_there(pid)
        await child.stop()


async def test_zombies_are_reaped_regularly_while_a_child_lives(
    signs: Fifo, go: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subreaper, "REAP_INTERVAL_S", 0.01)
    child = start("setsid sh -c 'sh -c \"echo \\$\\$ >\\$SIGNS\" &' &", signs, go)
    await reaped(await signs.pid())
    assert is_there(child.pid)
    await child.stop()


async def test_an_exception_does_not_end_the_reaping_of_zombies(
    signs: Fifo, go: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    reap_orphans, failures = SUBREAPER.reap_orphans, 1

    def broken_once() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a defect")
        reap_orphans()

    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
    monkeypatch.setattr(subreaper, "REAP_INTERVAL_S", 0.01)
    monkeypatch.setattr(SUBREAPER, "reap_orphans", broken_once)
    child = start("setsid sh -c 'sh -c \"echo \\$\\$ >\\$SIGNS\" &' &", signs, go)
    await reaped(await signs.pid())
    assert failures == 0
    await child.stop()


async def test_a_hundred_children_with_descendants_at_once() -> None:
    script = "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo $1"
    children = [start_shell(script, str(number)) for number in range(100)]
    async with asyncio.timeout(PATIENCE_S):
        ends = await asyncio.gather(*(child.wait() for child in children))
    assert [ended.stdout.text() for ended in ends] == [f"{number}\n" for number in range(100)]
