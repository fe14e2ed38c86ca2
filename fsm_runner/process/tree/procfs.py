"""Reads processes from Linux' /proc, and signals exactly the one that was read.

A process that has ended meanwhile, or that may not be read, gives nothing; OSError is raised for faults of our
own, as a rule that no file descriptor is left.
"""

import os
import signal
from collections.abc import Iterator

import msgspec

READ_BYTES = 65_536
_LIMIT_NAME_CHARS = 26
"""The width of the first column in a process's file `limits`."""
_NOT_TO_BE_READ = (FileNotFoundError, ProcessLookupError, PermissionError)


class Process(msgspec.Struct, frozen=True):
    """One process at the moment when it was read. Its id may be given away later, its id and start may not."""

    pid: int
    state: str
    """`Z` for one that has ended and is not reaped."""
    parent: int
    group: int
    session: int
    started_ticks: int
    """When it was started, in clock ticks since the system was."""
    own_ticks: int = 0
    """CPU time that it has used itself, all threads together, in clock ticks."""
    reaped_ticks: int = 0
    """CPU time of children that have ended and that it has waited for, with that of theirs."""
    resident_pages: int = 0

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.started_ticks

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has stopped it. A signal that was just sent may not have had its effect yet."""
        return self.state == "T"

    @property
    def has_ended(self) -> bool:
        return self.state in ("Z", "X")


def read_process(pid: int) -> Process | None:
    content = _content(f"/proc/{pid}/stat")
    # pid (command) state ppid pgrp session … utime stime cutime cstime … starttime vsize rss; the command may hold
    # anything, parentheses too.
    fields = content.rpartition(b")")[2].split()
    if len(fields) < 22:
        return None
    parent, group, session = map(int, fields[1:4])
    if session < 0:  # it was reaped this moment
        return None
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=parent,
        group=group,
        session=session,
        started_ticks=int(fields[19]),
        own_ticks=int(fields[11]) + int(fields[12]),
        reaped_ticks=int(fields[13]) + int(fields[14]),
        resident_pages=int(fields[21]),
    )


def environment(pid: int) -> list[bytes]:
    """Each `NAME=value` that the process was started with; empty also while it is replacing its program."""
    return [entry for entry in _content(f"/proc/{pid}/environ").split(b"\0") if entry]


def limits(pid: int) -> list[tuple[bytes, bytes]]:
    """The names of its resource limits with the values that count (the soft ones), which every user may read."""
    lines = _content(f"/proc/{pid}/limits").splitlines()[1:]
    return [(line[:_LIMIT_NAME_CHARS].strip(), line[_LIMIT_NAME_CHARS:].split()[0]) for line in lines]


def proportional_bytes(pid: int) -> int | None:
    """Its resident memory, what it shares divided by the number of those that share it (PSS).

    The kernel walks through its page tables for that. None where it may not be read, or the kernel is older than 4.14.
    """
    for line in _content(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def offers_processes() -> bool:
    """Whether /proc is there at all."""
    return os.access("/proc/self/stat", os.R_OK)


def offers_children() -> bool:
    """Whether the kernel lists the children of a process (CONFIG_PROC_CHILDREN), and /proc is there."""
    return os.access(_children_file(os.getpid(), os.getpid()), os.R_OK)


def offers_pidfds() -> bool:
    """Whether a process can be signalled by a handle that is of it alone (Linux 5.3)."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        handle = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        signal.pidfd_send_signal(handle, 0)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def process_ids() -> list[int]:
    """The ids of all visible processes, usually the oldest first. Raises OSError."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - paths cost more than the rest


def adopted_children() -> list[int]:
    """The children of this process's main thread.

    An orphan comes to the first living thread of its new parent, which is the main one; the children of other
    threads were all started by them.
    """
    own = os.getpid()
    return _pids(_content(_children_file(own, own)))


def descendants(process: Process) -> Iterator[Process]:
    """Everything below `process`, nearest first. Each was a child of the one above it when it was read."""
    above = [process]
    for parent in above:
        for child in _children(parent):
            above.append(child)
            yield child


def send(process: Process, number: signal.Signals) -> None:
    """Signals this process and no other that has its id by now. Raises PermissionError."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # Whoever the handle is of: if it was not reaped until now, it is the one that is read here.
        now = read_process(process.pid)
        if now is not None and now.identity == process.identity:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _children(parent: Process) -> Iterator[Process]:
    try:
        threads = os.listdir(f"/proc/{parent.pid}/task")  # noqa: PTH208 - a path for each thread costs more than it
    except _NOT_TO_BE_READ:
        return
    for thread in threads:
        for pid in _pids(_content(_children_file(parent.pid, int(thread)))):
            child = read_process(pid)
            if child is not None and child.parent == parent.pid:
                yield child


def _children_file(pid: int, thread: int) -> str:
    return f"/proc/{pid}/task/{thread}/children"


def _pids(content: bytes) -> list[int]:
    return [int(word) for word in content.split()]


def _content(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _NOT_TO_BE_READ:
        return b""
    try:
        return b"".join(iter(lambda: os.read(file, READ_BYTES), b""))
    except _NOT_TO_BE_READ:
        return b""
    finally:
        os.close(file)
