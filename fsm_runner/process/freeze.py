"""Stops processes that start others faster than each can be looked at.

Reading a process in /proc takes some 50 µs, and a process that forks all the time needs less for the next one. Here a
process costs one system call if it is not concerned, and four more if it is: few enough to overtake such a tree.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterator

from fsm_runner.process import procfs
from fsm_runner.process.watermark import watermark_of

PASSES = 100
"""At most this many passes in a row. A tree whose processes only replace each other has to be reaped in between."""


def freeze(is_meant: Callable[[int], bool], spared: Collection[int] = ()) -> Iterator[None]:
    """Sends SIGSTOP to each process whose watermark `is_meant`, until a pass over all processes finds no further one.

    A stopped process starts nothing and keeps its place under a limit of processes, so the rest can only get fewer.
    `spared` are ids of processes that go on in any case. Yields after each process, so that the caller can do other
    work. Raises OSError where no descriptor is left.
    """
    looked_at = set(spared)
    for _ in range(PASSES):
        has_found = False
        # The youngest first: an older one that is still there now will be there in a moment.
        for pid in reversed(procfs.process_ids()):
            if pid not in looked_at:
                looked_at.add(pid)
                has_found |= _stop(pid, is_meant)
                yield
        if not has_found:
            return


def _stop(pid: int, is_meant: Callable[[int], bool]) -> bool:
    """False where it is not meant, has ended, or may not be signalled."""

    def matches() -> bool:
        value = watermark_of(pid)
        return value is not None and is_meant(value)

    if not matches():
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The id may have been given away since. Whatever the handle is of keeps it until it is reaped.
        if not matches():
            return False
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(handle)
    return True
