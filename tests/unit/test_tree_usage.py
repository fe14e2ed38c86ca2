"""CPU time is counted once, wherever the kernel adds that of ended processes."""

import os
from collections.abc import Iterator

import pytest

from fsm_runner.process.tree import procfs, usage
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.usage import TreeUsage

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class FakeTree:
    """A fake process tree."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self.reaped_s = 0.0
        self.usage = TreeUsage(lambda: iter(list(self.processes.values())), lambda: self.reaped_s)

    def has(self, pid: int, own_s: float = 0.0, reaped_s: float = 0.0, pages: int = 0) -> None:
        self.processes[pid] = Process(
            pid=pid,
            state="R",
            parent=1,
            group=1,
            session=1,
            started_ticks=pid,
            own_ticks=round(own_s * TICKS_PER_S),
            reaped_ticks=round(reaped_s * TICKS_PER_S),
            resident_pages=pages,
        )

    async def cpu_s(self) -> float:
        return (await self.usage.measure()).cpu_s


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    tree = FakeTree()

    def nothing(process: Process) -> Iterator[Process]:
        return iter(())

    monkeypatch.setattr(procfs, "read_process", lambda pid: tree.processes.get(pid))
    monkeypatch.setattr(procfs, "descendants", nothing)
    return tree


async def test_cpu_time_of_a_reaped_child_counts_once(tree: FakeTree) -> None:
    tree.has(1)
    tree.has(2, own_s=3)
    assert await tree.cpu_s() == 3
    del tree.processes[2]
    tree.has(1, reaped_s=3.5)
    assert await tree.cpu_s() == 3.5
    assert await tree.cpu_s() == 3.5


async def test_cpu_time_that_the_kernel_dropped_counts_as_last_measured(tree: FakeTree) -> None:
    tree.has(1)
    tree.has(2, own_s=3)
    await tree.cpu_s()
    del tree.processes[2]
    tree.has(1, own_s=1)
    assert await tree.cpu_s() == 4
    assert tree.usage.ended_cpu_s() == 3


async def test_cpu_time_of_an_orphan_that_the_runner_reaped_counts_once(tree: FakeTree) -> None:
    tree.has(1)
    tree.has(2, own_s=3)
    await tree.cpu_s()
    del tree.processes[2]
    tree.reaped_s = 3.25
    assert await tree.cpu_s() == 3.25
    assert tree.usage.ended_cpu_s() == 3.25


async def test_a_whole_family_that_has_ended_counts_once(tree: FakeTree) -> None:
    tree.has(1)
    tree.has(2, own_s=1, reaped_s=2)
    tree.has(3, own_s=4)
    await tree.cpu_s()
    del tree.processes[2], tree.processes[3]
    tree.has(1, reaped_s=7)
    assert await tree.cpu_s() == 7


async def test_a_reused_id_is_another_process(tree: FakeTree) -> None:
    tree.has(1)
    tree.has(2, own_s=3)
    await tree.cpu_s()
    tree.processes[2] = Process(pid=2, state="R", parent=1, group=1, session=1, started_ticks=77, own_ticks=0)
    assert await tree.cpu_s() == 3


async def test_a_process_whose_parents_have_ended_still_belongs_to_the_tree(tree: FakeTree) -> None:
    tree.has(1)
    tree.has(2, own_s=3, pages=10)
    await tree.cpu_s()
    shown = tree.processes
    tree.usage._processes = lambda: iter([shown[1]])  # the other one is no longer a descendant of the first
    measured = await tree.usage.measure()
    assert (measured.processes, measured.cpu_s, measured.memory_bytes) == (2, 3, 10 * PAGE_BYTES)


async def test_counting_stops_at_the_given_number(tree: FakeTree) -> None:
    for pid in range(1, 100):
        tree.has(pid)
    measured = await tree.usage.measure(most_processes=10)
    assert (measured.processes, measured.is_partial) == (11, True)


async def test_a_long_measurement_does_not_block_the_loop(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "SLICE_S", 0.0)
    tree.has(1)
    tree.has(2, own_s=3)
    assert await tree.cpu_s() == 3
    del tree.processes[2]
    assert await tree.cpu_s() == 0  # too little, but never too much
