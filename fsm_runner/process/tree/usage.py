"""What the processes of one child use together, also what those have used that have ended."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import msgspec

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.procfs import Process
from fsm_runner.util.threads import in_thread

SLICE_S = 0.01
"""How long the loop is held at a time."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Identity = tuple[int, int]


class Usage(msgspec.Struct, frozen=True):
    """At one look."""

    processes: int = 0
    """Also those that have ended and that nobody has waited for yet."""
    memory_bytes: int = 0
    """Resident; what is shared counts once for each process, unless it was measured exactly."""
    cpu_s: float = 0.0
    is_cut: bool = False
    """There are more processes; they were not looked at."""


class TreeUsage:
    """Looks at a tree of processes, each time at those that are found and at those that were found before.

    The kernel adds the CPU time of a process that has ended to that of the one that has waited for it. Where nobody
    has (SIGCHLD is ignored) it is gone; then what was seen of it at the last look is remembered here.
    """

    def __init__(self, processes: Callable[[], Iterator[Process]], reaped_cpu_s: Callable[[], float]) -> None:
        """`processes`: the tree as it is now, which may name one of them twice; `reaped_cpu_s`: CPU time of those that
        have ended and were waited for by us."""
        self._processes = processes
        self._reaped_cpu_s = reaped_cpu_s
        self._seen: dict[Identity, Process] = {}
        self._reaped_before_s = 0.0
        self._lost_cpu_s = 0.0
        """Of processes that have ended and that nobody has waited for."""

    async def look(self, most_processes: int | None = None) -> Usage:
        """`most_processes`: more need not be counted. Raises OSError where no descriptor is left."""
        found: dict[Identity, Process] = {}
        hold_until, in_one_go = time.monotonic() + SLICE_S, True
        for process in self._everyone(found):
            found[process.identity] = process
            if most_processes is not None and len(found) > most_processes:
                return _sum(found, is_cut=True)
            if time.monotonic() >= hold_until:
                in_one_go = False
                await asyncio.sleep(0)
                hold_until = time.monotonic() + SLICE_S
        reaped_s = self._reaped_cpu_s()
        if in_one_go:  # else one may have been waited for in the middle, and would count twice
            self._lost_cpu_s += self._lost_s(found, reaped_s - self._reaped_before_s)
        self._seen, self._reaped_before_s = found, reaped_s
        usage = _sum(found)
        return msgspec.structs.replace(usage, cpu_s=usage.cpu_s + reaped_s + self._lost_cpu_s)

    def ended_cpu_s(self) -> float:
        """CPU time of those that have ended and that none of the others' times include."""
        return self._reaped_cpu_s() + self._lost_cpu_s

    async def exact_memory_bytes(self) -> int:
        """Of what was there at the last look, with what is shared divided among those that share it.

        It takes the kernel a walk through their page tables, so it is for cases of doubt.
        """
        return await in_thread(_exact_memory_bytes, list(self._seen.values()))

    def _everyone(self, found: dict[Identity, Process]) -> Iterator[Process]:
        yield from self._processes()
        for identity in self._seen.keys() - found.keys():
            # Its parent has ended, perhaps; it is of the tree all the same.
            process = procfs.read_process(identity[0])
            if process is not None and process.identity == identity:
                yield process
                yield from procfs.descendants(process)

    def _lost_s(self, found: dict[Identity, Process], reaped_s: float) -> float:
        """What those that are gone had used, as far as it has not come to anybody who is there."""
        gone = sum(_own_and_reaped_s(each) for identity, each in self._seen.items() if identity not in found)
        if not gone:
            return 0.0
        before = {identity: each.reaped_ticks for identity, each in self._seen.items()}
        handed_on = sum(each.reaped_ticks - before.get(identity, 0) for identity, each in found.items()) / _TICKS_PER_S
        return max(0.0, gone - handed_on - reaped_s)


def _own_and_reaped_s(process: Process) -> float:
    return (process.own_ticks + process.reaped_ticks) / _TICKS_PER_S


def _sum(found: dict[Identity, Process], *, is_cut: bool = False) -> Usage:
    return Usage(
        processes=len(found),
        memory_bytes=sum(each.resident_pages for each in found.values()) * _PAGE_BYTES,
        cpu_s=sum(map(_own_and_reaped_s, found.values())),
        is_cut=is_cut,
    )


def _exact_memory_bytes(processes: list[Process]) -> int:
    total_bytes = 0
    for process in processes:
        share_bytes = procfs.proportional_bytes(process.pid)
        total_bytes += process.resident_pages * _PAGE_BYTES if share_bytes is None else share_bytes
    return total_bytes
