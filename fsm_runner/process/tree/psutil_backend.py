"""The processes below one, on systems without Linux' /proc."""

import os
from collections.abc import Iterator

import psutil

from fsm_runner.process.tree.procfs import Process

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processes_below(pid: int) -> Iterator[Process]:
    """The process itself, then what it has started and what that has, as far as their parents live.

    psutil looks through all processes for them: some milliseconds.
    """
    try:
        top = psutil.Process(pid)
        processes = [top, *top.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        read = _read(process)
        if read is not None:
            yield read


def _read(process: psutil.Process) -> Process | None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            return Process(
                pid=process.pid,
                state="Z" if process.status() == psutil.STATUS_ZOMBIE else "S",
                parent=process.ppid(),
                group=os.getpgid(process.pid),
                session=os.getsid(process.pid),
                started_ticks=int(process.create_time() * _TICKS_PER_S),
                own_ticks=int((times.user + times.system) * _TICKS_PER_S),
                reaped_ticks=int((times.children_user + times.children_system) * _TICKS_PER_S),
                resident_pages=process.memory_info().rss // _PAGE_BYTES,
            )
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return None
