"""Reports that a child process has exited, without reaping it.

Until it is reaped, its process id, which is also the id of its group, cannot be reused.
"""

import asyncio
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Protocol


class ExitWatch(Protocol):
    """Makes one call on the event loop when the process has exited."""

    def cancel(self) -> None:
        """Release the watch, which makes no call afterwards. May be repeated."""

    def wait_blocking(self, timeout_s: float) -> bool:
        """Block until the process has exited or for `timeout_s`. Return True if it has. Not after `cancel`."""


class PidfdWatch:
    """Uses a file descriptor that becomes readable when the process exits (Linux 5.3)."""

    def __init__(self, pid: int, on_exit: Callable[[], None]) -> None:
        """Raises OSError if the kernel or a seccomp filter does not offer pidfds."""
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._fd = os.pidfd_open(pid)
        self._loop.add_reader(self._fd, self._notice)

    def _notice(self) -> None:
        self.cancel()
        self._on_exit()

    def cancel(self) -> None:
        if self._fd < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def wait_blocking(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


class ThreadWatch:
    """Uses a daemon thread that blocks until the process exits."""

    def __init__(self, pid: int, on_exit: Callable[[], None]) -> None:
        """Raises RuntimeError if no further thread can be started."""
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._cancelled = False
        self._thread = threading.Thread(target=self._block, args=(pid,), name=f"exit-of-{pid}", daemon=True)
        self._thread.start()

    def _block(self, pid: int) -> None:
        _block_until_exit(pid)
        with suppress(RuntimeError):  # the loop was closed first
            self._loop.call_soon_threadsafe(self._notice)

    def _notice(self) -> None:
        if not self._cancelled:
            self._on_exit()

    def cancel(self) -> None:
        self._cancelled = True

    def wait_blocking(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def watch_exit(pid: int, on_exit: Callable[[], None]) -> ExitWatch:
    """Return the cheapest watch that this system offers. Raises RuntimeError if it offers none."""
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):  # an old kernel, a container's seccomp filter, or no descriptor left
            return PidfdWatch(pid, on_exit)
    return ThreadWatch(pid, on_exit)


if sys.platform == "darwin" and sys.version_info < (3, 13):  # os.waitid came to macOS with Python 3.13

    def _block_until_exit(pid: int) -> None:
        flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
        exit_of_pid = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)
        with closing(select.kqueue()) as queue, suppress(ProcessLookupError):  # it is a zombie already
            queue.control([exit_of_pid], 1)

    def has_exited(pid: int) -> bool:
        """Return True if the unreaped child has exited; False also if the system does not report it."""
        return False

else:

    def _block_until_exit(pid: int) -> None:
        with suppress(ChildProcessError):  # SIGCHLD is ignored in this process, so the kernel has reaped it
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def has_exited(pid: int) -> bool:
        """Return True if the unreaped child has exited; False also if the system does not report it."""
        try:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True
