"""Finds the processes that an executor leaves running when it exits, before its supervisor kills them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import msgspec
import psutil

from fsm_runner.process.exit_watch import watch_exit

EXIT_GRACE_S = 0.5
"""How long the executor's children may take to exit after it."""
POLL_INTERVAL_S = 0.05


class Leftover(msgspec.Struct, frozen=True):
    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


class LeftoverWatch:
    """The exit watch of an executor, which delays the exit notification until it has looked for leftovers."""

    def __init__(self, pid: int, session_id: str, on_exit: Callable[[], None]) -> None:
        self.found: list[Leftover] = []
        self.notified_at: float | None = None
        """The loop time of the exit notification."""
        self._exited_at: float | None = None
        self._pid = pid
        self._session_id = session_id
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._inner = watch_exit(pid, self._look)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._inner.cancel()

    def wait_blocking(self, timeout_s: float) -> bool:
        return self._inner.wait_blocking(timeout_s)

    def kill(self) -> None:
        """Kill the leftovers, and any that they have started since."""
        if not self.found:
            return
        for leftover in [*self.found, *find_leftovers(self._pid, self._session_id)]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(leftover.pid, signal.SIGKILL)

    def _look(self) -> None:
        now = self._loop.time()
        if self._exited_at is None:
            self._exited_at = now
        self.found = find_leftovers(self._pid, self._session_id)
        if self.found and now < self._exited_at + EXIT_GRACE_S:
            self._timer = self._loop.call_later(POLL_INTERVAL_S, self._look)
            return
        self.notified_at = now
        self._on_exit()


def find_leftovers(group: int, session_id: str) -> list[Leftover]:
    """Return the processes of this group and those with this session in their environment, without the leader."""
    found = []
    for pid in psutil.pids():
        if pid in (group, os.getpid()):
            continue
        with contextlib.suppress(psutil.Error, OSError):  # the process has exited
            process = psutil.Process(pid)
            if os.getpgid(pid) != group and _session_of(process) != session_id:
                continue
            if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                found.append(Leftover(pid, " ".join(process.cmdline())))
    return found


def _session_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("AGENT_SESSION_ID")
    except psutil.AccessDenied:  # another user's process
        return None
