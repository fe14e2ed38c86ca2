"""Measures what the processes of one child use together, including processes that have ended."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import msgspec

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.procfs import Identity, Process
from fsm_runner.util.threads import in_thread

SLICE_S = 0.01
"""The longest time for which the event loop is blocked at once."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """One measurement."""

    processes: int = 0
    """Zombies are included."""
    memory_bytes: int = 0
    """The sum of each process's resident memory, so shared memory counts several times."""
    cpu_s: float = 0.0
    is_partial: bool = False
    """There are more processes, which were not read."""


class TreeUsage:
    """Measures a tree of processes, including processes that were found before and can no longer be reached.

    When a process is reaped, the kernel adds its CPU time to its parent's. If the parent ignores SIGCHLD, the kernel
    drops the CPU time; then the value of the last measurement is kept here.
    """

    def __init__(self, processes: Callable[[], Iterator[Process]], reaped_cpu_s: Callable[[], float]) -> None:
        """`processes` lists the tree and may yield a process twice. `reaped_cpu_s` returns the CPU time of the
        processes that the runner has reaped."""
        self._processes = processes
        self._reaped_cpu_s = reaped_cpu_s
        self._seen: dict[Identity, Process] = {}
        self._reaped_before_s = 0.0
        self._dropped_cpu_s = 0.0
        """CPU time of ended processes that the kernel has dropped."""

    async def measure(self, most_processes: int | None = None) -> Usage:
        """Stop after `most_processes`. Raises OSError if no descriptor is left."""
        found: dict[Identity, Process] = {}
        yield_at, at_once = time.monotonic() + SLICE_S, True
        for process in self._all(found):
            found[process.identity] = process
            if most_processes is not None and len(found) > most_processes:
                return _sum(found, is_partial=True)
            if time.monotonic() >= yield_at:
                at_once = False
                await asyncio.sleep(0)
                yield_at = time.monotonic() + SLICE_S
        reaped_s = self._reaped_cpu_s()
        if at_once:  # otherwise a process may have been reaped in between, and would count twice
            self._dropped_cpu_s += self._newly_dropped_s(found, reaped_s - self._reaped_before_s)
        self._seen, self._reaped_before_s = found, reaped_s
        return _sum(found, self.ended_cpu_s())

    def ended_cpu_s(self) -> float:
        """CPU time of ended processes that no process of the tree has waited for."""
        return self._reaped_cpu_s() + self._dropped_cpu_s

    async def exact_memory_bytes(self) -> int:
        """The memory of the processes of the last measurement, with shared memory counted once. It is slow."""
        return await in_thread(_exact_memory_bytes, list(self._seen.values()))

    def _all(self, found: dict[Identity, Process]) -> Iterator[Process]:
        yield from self._processes()
        for identity in self._seen.keys() - found.keys():
            process = procfs.read_process(identity[0])
            if process is not None and process.identity == identity:
                yield process
                yield from procfs.descendants(process)

    def _newly_dropped_s(self, found: dict[Identity, Process], reaped_s: float) -> float:
        """CPU time of exited processes that has not been added to a parent or reaped by the runner."""
        gone_s = sum(_own_and_reaped_s(each) for identity, each in self._seen.items() if identity not in found)
        if not gone_s:
            return 0.0
        before = {identity: each.reaped_ticks for identity, each in self._seen.items()}
        inherited = sum(each.reaped_ticks - before.get(identity, 0) for identity, each in found.items()) / _TICKS_PER_S
        return max(0.0, gone_s - inherited - reaped_s)


def _own_and_reaped_s(process: Process) -> float:
    return (process.own_ticks + process.reaped_ticks) / _TICKS_PER_S


def _sum(found: dict[Identity, Process], ended_cpu_s: float = 0.0, *, is_partial: bool = False) -> Usage:
    return Usage(
        processes=len(found),
        memory_bytes=sum(each.resident_pages for each in found.values()) * _PAGE_BYTES,
        cpu_s=sum(map(_own_and_reaped_s, found.values())) + ended_cpu_s,
        is_partial=is_partial,
    )


def _exact_memory_bytes(processes: list[Process]) -> int:
    total_bytes = 0
    for process in processes:
        share_bytes = procfs.proportional_bytes(process.pid)
        total_bytes += process.resident_pages * _PAGE_BYTES if share_bytes is None else share_bytes
    return total_bytes
