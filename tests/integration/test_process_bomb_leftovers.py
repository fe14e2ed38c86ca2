"""Processes that keep starting others are killed until none is left, and are not charged to another run."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from fsm_runner.process.child import child as child_module
from fsm_runner.process.child.child import Child
from fsm_runner.process.limits.launch_policy import LOWERED_BY, LaunchPolicy
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.process.tree import descendant_killer, freeze_and_kill, procfs, subreaper
from fsm_runner.process.tree.freeze_and_kill import KillLoop, listed
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.subreaper import SUBREAPER
from tests.support.children import ENV, HERE, OWN_TREE_TAGS, exit_of, start_shell, subreaper_enabled
from tests.support.fifo import Fifo
from tests.support.logs import log_lines
from tests.support.processes import with_environment
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.linux(reason="adoption of orphaned processes")

CHAIN = """
import os, time

ends_at = time.monotonic() + 60  # a guard
read, write = os.pipe()
if os.fork():
    os.close(write)
    os.read(read, 1)  # until the first one of the chain has left the group
    os._exit(0)
os.setsid()
os.write(1, b"up\\n")
for number in (1, 2, write):
    os.close(number)
while time.monotonic() < ends_at:
    time.sleep(0.005)
    if os.fork():
        os._exit(0)
    os.setsid()
"""
"""Starts a chain of processes, one at a time and each in a session of its own, and exits."""

BURNS = "import time, os\nos.setsid()\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ntime.sleep(1000)"


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    with subreaper_enabled(exclusive=True):
        yield


class Powerless:
    """Drops all signals until this number of searches has passed.

    `changing`: each of them finds other processes than the last one, and a killer that sees no change gives up at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, searches: int, *, changing: bool = False) -> None:
        self.left = searches
        self._changing = changing
        self._seen: list[int] = []
        self._children, self._send, self._stop = procfs.adopted_children, procfs.send, freeze_and_kill._stop
        monkeypatch.setattr(procfs, "adopted_children", self.children)
        monkeypatch.setattr(procfs, "send", self.send)
        monkeypatch.setattr(freeze_and_kill, "_stop", self.stop)
        if changing:
            is_stuck = KillLoop._is_stuck
            monkeypatch.setattr(
                KillLoop,
                "_is_stuck",
                lambda kills, remaining, _: is_stuck(kills, remaining, 0.0 if self.left > 0 else 1000.0),
            )

    def children(self) -> list[int]:
        self.left -= 1
        seen = self._children()
        while self._changing and self.left > 0 and set(seen) <= set(self._seen):
            time.sleep(0.001)
            seen = self._children()
        self._seen = seen
        return seen

    def send(self, process: Process, number: signal.Signals) -> None:
        if self.left <= 0:
            self._send(process, number)

    def stop(self, pid: int, is_meant: Callable[[int], bool]) -> bool:
        return self.left <= 0 and self._stop(pid, is_meant)


async def test_the_killer_does_not_give_up_while_processes_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # The subreaper's timer reaps members of the chain in the middle of a search.
    monkeypatch.setattr(subreaper, "REAP_INTERVAL_S", 0.002)
    monkeypatch.setattr(descendant_killer, "SLICE_S", 0.0)
    powerless = Powerless(monkeypatch, searches=40, changing=True)
    child = Child.start([sys.executable, "-c", CHAIN], env=ENV, cwd=HERE)
    with log_lines() as lines:
        assert (await exit_of(child)).code == 0
    assert powerless.left <= 0
    assert with_environment(OWN_TREE_TAGS) == []
    assert not [line for line in lines if "still there" in line]


async def test_a_blocking_close_does_not_give_up_either(monkeypatch: pytest.MonkeyPatch) -> None:
    powerless, is_up = Powerless(monkeypatch, searches=40, changing=True), asyncio.Event()
    child = Child.start([sys.executable, "-c", CHAIN], env=ENV, cwd=HERE, on_stdout=lambda _: is_up.set())
    try:
        await asyncio.wait_for(is_up.wait(), PATIENCE_S)
    finally:
        child.close()
    assert powerless.left <= 0
    assert with_environment(OWN_TREE_TAGS) == []


ORPHAN = "setsid sh -c 'echo $$ >$SIGNS; exec sleep 1000' &\n"


async def given_up(script: str, signs: Fifo, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on what the script starts, so that the next child that ends kills it."""
    go = signs.path.with_name("go")
    env = {**ENV, "SIGNS": str(signs.path), "GO": str(go), "PYTHON": sys.executable, "BURNS": BURNS}
    with monkeypatch.context() as patch:
        patch.setattr(descendant_killer, "STUCK_S", 0.05)
        patch.setattr(child_module, "OUTPUT_DRAIN_S", 0.0)
        async with Fifo(go) as gate:
            child = Child.start(["/bin/sh", "-c", f"{script}\nread line <$GO"], env=env, cwd=HERE)
            for _ in range(count):
                await signs.line()
            Powerless(patch, searches=10_000)
            gate.write_line()
            await exit_of(child)
    SUBREAPER.given_up.clear()
    assert len(with_environment(OWN_TREE_TAGS)) == count


async def test_a_child_is_not_charged_with_leftovers_that_its_end_kills(
    signs: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given_up(5 * ORPHAN, signs, 5, monkeypatch)
    # The end takes longer than the limiter waits until its next measurement.
    Powerless(monkeypatch, searches=20)
    innocent = Child.start(["true"], env=ENV, cwd=HERE, launch_policy=LaunchPolicy(ResourceLimits(processes=2)))
    ended = await exit_of(innocent)
    assert (ended.code, ended.exceeded) == (0, None)
    assert with_environment(OWN_TREE_TAGS) == []


async def test_a_child_is_not_charged_with_the_cpu_time_of_leftovers_that_its_end_kills(
    signs: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given_up('"$PYTHON" -c "$BURNS" >$SIGNS &', signs, 1, monkeypatch)
    innocent = Child.start(["true"], env=ENV, cwd=HERE, launch_policy=LaunchPolicy(ResourceLimits(cpu_s=0.2)))
    ended = await exit_of(innocent)
    assert (ended.code, ended.exceeded) == (0, None)
    assert with_environment(OWN_TREE_TAGS) == []


async def test_a_child_has_a_lower_priority_than_the_runner() -> None:
    ended = await exit_of(start_shell("sleep 0.01; cut -d' ' -f19 /proc/$$/stat"))
    assert ended.stdout.text() == f"{os.getpriority(os.PRIO_PROCESS, 0) + LOWERED_BY}\n"


def test_killing_continues_while_processes_are_started() -> None:
    """Each search finds another process, until there is none."""
    searches = iter([[process(pid)] for pid in range(50)] + [[]])
    kills = KillLoop(lambda process, number: None)

    def search() -> Iterator[float]:
        found = next(searches)
        kills.found = {each.identity: each for each in found}
        for each in found:
            kills.stop(each)
        yield 0.0

    for _ in kills.steps(search, stuck_s=0.0):
        pass
    assert (len(kills.stopped), kills.found, list(searches)) == (50, {}, [])


def process(pid: int) -> Process:
    return Process(pid=pid, state="S", parent=1, group=1, session=1, started_ticks=1)


def test_processes_are_stuck_when_enough_checks_show_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 3.0, 1000.0, 1001.0, 1002.0, 1003.0, 1004.0, 1005.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    kills, two, one = KillLoop(lambda process, number: None), frozenset({(1, 1), (2, 1)}), frozenset({(1, 1)})
    # This process was stopped between the third and the fourth check, so the time between them does not count.
    assert [kills._is_stuck(two, 3.0) for _ in range(4)] == [False] * 4
    assert [kills._is_stuck(one, 3.0) for _ in range(5)] == [False, False, False, False, True]


def test_a_message_names_some_processes_and_counts_the_rest() -> None:
    assert listed(["1", "2"]) == "1, 2"
    assert listed([str(number) for number in range(3_000)]).endswith(", 18, 19 and 2,980 more")
