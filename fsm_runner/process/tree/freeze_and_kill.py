"""The algorithm that ends a set of processes which may fork faster than anything can list them.

Processes are stopped until a search finds no further one, and only then killed. A stopped process forks no more and
still counts against a limit of processes, so fewer and fewer can run.

The watchdog's bare interpreter imports this module, so it uses only small modules of the standard library.
"""

import signal
import time
from collections.abc import Callable, Collection, Iterator

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.procfs import Identity, Process
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of

PASSES = 100
"""The most passes of one `freeze`. If the processes of a tree only replace each other, the caller has to reap the ended
ones before the next call."""
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.02
LONGEST_GAP_S = 1.0
"""At most this much of the time between two checks counts as time without a change. This process may have been stopped
in between, and then the other processes had no time to end either."""
NAMED = 20
"""The most processes that a message lists."""


class KillLoop:
    """Stops and then kills what a search finds, again and again, until it finds nothing.

    There is no time limit while processes start or end, only for processes that stay the same: the kernel holds them.
    """

    def __init__(self, send: Callable[[Process, signal.Signals], None]) -> None:
        self.found: dict[Identity, Process] = {}
        """What the last search found. After `steps`: what SIGKILL did not end."""
        self.stopped: set[Identity] = set()
        self._send = send
        self._remaining: frozenset[Identity] = frozenset()
        self._checked_at = time.monotonic()
        self._unchanged_s = 0.0

    def stop(self, process: Process) -> None:
        """Send SIGSTOP, once."""
        if process.identity not in self.stopped:
            self.stopped.add(process.identity)
            if not process.is_stopped:
                self._send(process, signal.SIGSTOP)

    def steps(self, search: Callable[[], Iterator[float]], stuck_s: float) -> Iterator[float]:
        """Yield the seconds to wait before each next step, until nothing is found or nothing changes for `stuck_s`.

        `search` yields in the same way, passes each process that it finds to `stop`, and sets `found`. Raises the
        OSError of a search that fails for `stuck_s`.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            yield from self._freeze(search, stuck_s)
            if not self.found or self._is_stuck(frozenset(self.found), stuck_s):
                return
            for process in self.found.values():
                self._send(process, signal.SIGKILL)
                yield 0.0
            yield pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _freeze(self, search: Callable[[], Iterator[float]], stuck_s: float) -> Iterator[float]:
        """Search until a search finds only stopped processes."""
        stopped_before = -1
        while len(self.stopped) > stopped_before:
            stopped_before = len(self.stopped)
            try:
                yield from search()
            except OSError:  # no descriptor left; processes that end free some
                if self._is_stuck(frozenset(), stuck_s):
                    raise
                stopped_before = -1
                yield LONGEST_PAUSE_S

    def _is_stuck(self, remaining: frozenset[Identity], limit_s: float) -> bool:
        """Return True if the same processes have remained for `limit_s`. Call it after each search."""
        now = time.monotonic()
        if remaining == self._remaining:
            self._unchanged_s += min(now - self._checked_at, LONGEST_GAP_S)
        else:
            self._unchanged_s = 0.0
        self._remaining, self._checked_at = remaining, now
        return self._unchanged_s > limit_s


def freeze(is_meant: Callable[[int], bool], spared: Collection[int] = ()) -> Iterator[float]:
    """Send SIGSTOP to each process whose rlimit tag `is_meant` accepts, until a pass finds no further one.

    Reading a process in /proc takes about 50 µs, and a process that forks all the time needs less for its next child.
    This takes one system call for each process, and four more for each that matches, which is fast enough.

    `spared`: ids of processes that are never stopped. Yields 0.0 after each process, so that the caller can do other
    work. Raises OSError if no descriptor is left.
    """
    checked = set(spared)
    for _ in range(PASSES):
        has_found = False
        # The youngest first: in a chain of forks they exit soonest, while older ones are likely to stay.
        for pid in reversed(procfs.process_ids()):
            if pid not in checked:
                checked.add(pid)
                has_found |= _stop(pid, is_meant)
                yield 0.0
        if not has_found:
            return


def _stop(pid: int, is_meant: Callable[[int], bool]) -> bool:
    """Return False if the process does not match, has ended, or may not be signalled."""

    def matches() -> bool:
        value = rlimit_tag_of(pid)
        return value is not None and is_meant(value)

    try:
        return matches() and procfs.signal_if(matches, pid, signal.SIGSTOP)
    except PermissionError:
        return False


def listed(names: list[str]) -> str:
    """The first `NAMED` names, and the number of the others."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
