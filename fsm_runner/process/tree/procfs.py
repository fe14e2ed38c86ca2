"""Reads processes from Linux' /proc and signals them by pidfd.

The watchdog's bare interpreter imports this module, so it uses only small modules of the standard library.

A process that has ended, or that this user may not read, yields None or nothing. OSError means that the runner itself
lacks something, usually a file descriptor.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

READ_BYTES = 65_536
_UNREADABLE = (FileNotFoundError, ProcessLookupError, PermissionError)

Identity = tuple[int, int]
"""Process id and start time: the kernel reuses the id, but never the pair."""


class Process(SimpleNamespace):
    """A process at the moment when it was read."""

    pid: int
    name: str = ""
    state: str
    parent: int
    group: int
    session: int
    started_ticks: int
    """Clock ticks from the boot of the system."""
    own_ticks: int = 0
    """CPU time of all its threads."""
    reaped_ticks: int = 0
    """CPU time of the ended children that it has waited for, and of theirs."""
    resident_pages: int = 0

    @property
    def identity(self) -> Identity:
        return self.pid, self.started_ticks

    @property
    def is_stopped(self) -> bool:
        """True if a signal has stopped it. A signal that was just sent may not have taken effect yet."""
        return self.state == "T"

    @property
    def has_ended(self) -> bool:
        """True for a zombie, which has ended but is not reaped."""
        return self.state in ("Z", "X")


def read_process(pid: int) -> Process | None:
    content = _content(f"/proc/{pid}/stat")
    # pid (command) state ppid pgrp session … utime stime cutime cstime … starttime vsize rss. The command may contain
    # any character, including parentheses.
    command, _, rest = content.rpartition(b")")
    fields = rest.split()
    if len(fields) < 22:
        return None
    parent, group, session = map(int, fields[1:4])
    if session < 0:  # it is being reaped
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
        name=command.partition(b"(")[2].decode(errors="replace"),
    )


def processes() -> Iterator[Process]:
    """All visible processes."""
    for pid in process_ids():
        process = read_process(pid)
        if process is not None:
            yield process


def process_ids() -> list[int]:
    """The ids of all visible processes, usually the oldest first. Raises OSError."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib is slow and large


def environment(pid: int) -> list[bytes]:
    """Each `NAME=value` that the process was started with. Also empty while the process executes a new program."""
    return [entry for entry in _content(f"/proc/{pid}/environ").split(b"\0") if entry]


def soft_limit(pid: int, name: bytes) -> int:
    """The soft value of a resource limit; 0 if it is unlimited or the process has ended. Every user may read it."""
    lines = [line for line in _content(f"/proc/{pid}/limits").splitlines() if line.startswith(name)]
    return next((int(value) for line in lines if (value := line.removeprefix(name).split()[0]).isdigit()), 0)


def proportional_bytes(pid: int) -> int | None:
    """Its resident memory, with each shared page divided by the number of processes that share it (PSS).

    The kernel walks the page tables, which is slow. None if it is not readable or the kernel is older than 4.14.
    """
    for line in _content(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def offers_processes() -> bool:
    """True if /proc exists."""
    return os.access("/proc/self/stat", os.R_OK)


def offers_children() -> bool:
    """True if the kernel lists the children of a process (CONFIG_PROC_CHILDREN)."""
    return os.access(f"/proc/self/task/{os.getpid()}/children", os.R_OK)


def offers_pidfds() -> bool:
    """True if a process can be signalled by a handle that no other process can take over (Linux 5.3)."""
    try:
        return signal_if(lambda: True, os.getpid(), 0)
    except (AttributeError, OSError):
        return False


def adopted_children() -> list[int]:
    """The children of this process's main thread. Raises OSError.

    The kernel gives an orphan to the first living thread of its new parent, which is the main thread. The children of
    other threads were started by those threads.
    """
    return _children_of_thread(os.getpid(), os.getpid())


def descendants(process: Process) -> Iterator[Process]:
    """All processes below `process`, nearest first, from the kernel's lists of children."""
    above = [process]
    for parent in above:
        for child in _children(parent):
            above.append(child)
            yield child


def with_descendants(roots: Iterable[Process], table: Iterable[Process]) -> list[Process]:
    """`roots` and all processes below them in `table`."""
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found = list(roots)
    for process in found:
        found += children.pop(process.pid, [])
    return found


def send(process: Process, number: signal.Signals) -> None:
    """Signal this process, and not another one that has reused its id. Raises PermissionError."""

    def is_same() -> bool:
        now = read_process(process.pid)
        return now is not None and now.identity == process.identity

    signal_if(is_same, process.pid, number)


def signal_if(is_meant: Callable[[], bool], pid: int, number: int) -> bool:
    """Signal the process with this id. Return False if it has ended or `is_meant` returns False.

    `is_meant` checks that the id still belongs to the process that it was read from. If it does, so does the handle,
    which was opened before. Raises PermissionError, and OSError if no descriptor is left.
    """
    try:
        handle = os.pidfd_open(pid)
        try:
            if not is_meant():
                return False
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except ProcessLookupError:
        return False
    return True


def _children(parent: Process) -> Iterator[Process]:
    try:
        threads = os.listdir(f"/proc/{parent.pid}/task")  # noqa: PTH208 - pathlib is slow and large
    except _UNREADABLE:
        return
    for thread in threads:
        for pid in _children_of_thread(parent.pid, int(thread)):
            child = read_process(pid)
            if child is not None and child.parent == parent.pid:
                yield child


def _children_of_thread(pid: int, thread: int) -> list[int]:
    return [int(word) for word in _content(f"/proc/{pid}/task/{thread}/children").split()]


def _content(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _UNREADABLE:
        return b""
    try:
        return b"".join(iter(lambda: os.read(file, READ_BYTES), b""))
    except _UNREADABLE:
        return b""
    finally:
        os.close(file)
