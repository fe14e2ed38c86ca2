"""Stops a tree of processes that fork faster than /proc can be read.

Reading a process in /proc takes about 50 µs, and a process that forks all the time needs less for its next child. Here
a process costs one system call, and four more if it belongs to the tree: few enough to overtake the tree.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterator

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of

PASSES = 100
"""The most passes of one call. If the processes of a tree only replace each other, the caller has to reap the ended
ones before the next call."""


def freeze(is_meant: Callable[[int], bool], spared: Collection[int] = ()) -> Iterator[None]:
    """Send SIGSTOP to each process whose rlimit tag `is_meant` accepts, until a pass finds no further one.

    A stopped process forks no more and still counts against a limit of processes, so fewer and fewer can be running.
    `spared`: ids of processes that are never stopped. Yields after each process, so that the caller can do other work.
    Raises OSError when no descriptor is left.
    """
    looked_at = set(spared)
    for _ in range(PASSES):
        has_found = False
        # The youngest first: in a chain of forks they exit soonest, while older ones are likely to stay.
        for pid in reversed(procfs.process_ids()):
            if pid not in looked_at:
                looked_at.add(pid)
                has_found |= _stop(pid, is_meant)
                yield
        if not has_found:
            return


def _stop(pid: int, is_meant: Callable[[int], bool]) -> bool:
    """Returns False if it does not match, has ended, or may not be signalled."""

    def matches() -> bool:
        value = rlimit_tag_of(pid)
        return value is not None and is_meant(value)

    if not matches():
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # Another process may have got the id before the handle was opened, so the rlimit tag is checked again.
        if not matches():
            return False
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(handle)
    return True
