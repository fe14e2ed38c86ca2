"""The process table of systems that lack Linux' /proc or pidfds."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import psutil

from fsm_runner.process.tree.procfs import Process

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processes() -> Iterator[Process]:
    """All processes that this user may read."""
    yield from _readable(psutil.process_iter())


def read_process(pid: int) -> Process | None:
    """The process; None if it has ended or is not readable."""
    with suppress(psutil.Error):
        return next(_readable(iter([psutil.Process(pid)])), None)
    return None


def processes_below(pid: int) -> Iterator[Process]:
    """The process and its descendants whose parents are alive. Takes some milliseconds."""
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        yield from _readable(iter([top, *top.children(recursive=True)]))


def environment(pid: int) -> list[bytes]:
    """Each `NAME=value` that the process was started with; empty if it is not readable."""
    try:
        return [os.fsencode(f"{name}={value}") for name, value in psutil.Process(pid).environ().items()]
    except (psutil.Error, OSError):
        return []


def send(process: Process, number: signal.Signals) -> None:
    """Signal this process, and not another one that has reused its id."""
    with suppress(psutil.Error, OSError):
        now = psutil.Process(process.pid)
        if _started_ticks(now) == process.started_ticks:
            now.send_signal(number)


def _readable(found: Iterator[psutil.Process]) -> Iterator[Process]:
    for process in found:
        with suppress(psutil.Error, OSError), process.oneshot():
            own_s = reaped_s = resident_bytes = 0.0
            with suppress(psutil.AccessDenied):  # another user's process
                times = process.cpu_times()
                own_s, reaped_s = times.user + times.system, times.children_user + times.children_system
                resident_bytes = process.memory_info().rss
            yield Process(
                pid=process.pid,
                state="Z" if process.status() == psutil.STATUS_ZOMBIE else "S",
                parent=process.ppid(),
                group=os.getpgid(process.pid),
                session=os.getsid(process.pid),
                started_ticks=_started_ticks(process),
                own_ticks=int(own_s * _TICKS_PER_S),
                reaped_ticks=int(reaped_s * _TICKS_PER_S),
                resident_pages=int(resident_bytes) // _PAGE_BYTES,
                name=process.name(),
            )


def _started_ticks(process: psutil.Process) -> int:
    return int(process.create_time() * _TICKS_PER_S)
