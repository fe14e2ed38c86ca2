"""What an executor leaves running when it exits, found before its supervisor kills it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from fsm_runner.process.exit_watch import ExitWatch, watch_exit

LEAVING_S = 0.5
"""So long after the executor's exit its children may still be on their way out."""
LOOK_INTERVAL_S = 0.05

_PROC = Path("/proc")


class Leftover(msgspec.Struct, frozen=True):
    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


class LeftoverWatch:
    """The exit watch of an executor. It holds the news of the exit back until it has looked at what is left."""

    def __init__(self, session_id: str) -> None:
        self.found: list[Leftover] = []
        self.told_at: float | None = None
        """When the supervisor was told of the exit; time of the loop."""
        self._exited_at: float | None = None
        self._session_id = session_id
        self._loop = asyncio.get_running_loop()
        self._pid = 0
        self._inner: ExitWatch | None = None
        self._later: asyncio.TimerHandle | None = None
        self._on_exit: Callable[[], None] = lambda: None

    def watch(self, pid: int, on_exit: Callable[[], None]) -> ExitWatch:
        self._pid, self._on_exit = pid, on_exit
        self._inner = watch_exit(pid, self._look)
        return self

    def cancel(self) -> None:
        if self._later is not None:
            self._later.cancel()
        if self._inner is not None:
            self._inner.cancel()

    def wait_blocking(self, timeout_s: float) -> bool:
        return self._inner is not None and self._inner.wait_blocking(timeout_s)

    def kill(self) -> None:
        """Those that were found, and whatever they have started since."""
        if not self.found:
            return
        for leftover in [*self.found, *leftovers(self._pid, self._session_id)]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(leftover.pid, signal.SIGKILL)

    def _look(self) -> None:
        now = self._loop.time()
        if self._exited_at is None:
            self._exited_at = now
        self.found = leftovers(self._pid, self._session_id)
        if self.found and now < self._exited_at + LEAVING_S:
            self._later = self._loop.call_later(LOOK_INTERVAL_S, self._look)
            return
        self.told_at = now
        self._on_exit()


def leftovers(group: int, session_id: str) -> list[Leftover]:
    """Processes of this group or, where the system shows it, with this session in their environment."""
    found = _in_proc(group, session_id) if (_PROC / "self" / "stat").exists() else _by_ps(group)
    return [each for each in found if each.pid not in (group, os.getpid())]


def _in_proc(group: int, session_id: str) -> Iterator[Leftover]:
    marker = f"AGENT_SESSION_ID={session_id}\0".encode()
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # pid (command) state ppid pgrp …; the command may hold anything, parentheses too.
            state, _, process_group = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            if state in (b"Z", b"X"):
                continue
            if int(process_group) == group or marker in _environment(folder):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                yield Leftover(int(folder.name), b" ".join(words).decode(errors="replace").strip())
        except (OSError, ValueError):  # it has ended meanwhile
            continue


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes() + b"\0"
    except OSError:  # another user's
        return b""


def _by_ps(group: int) -> Iterator[Leftover]:
    listing = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,pgid=,stat=,command="], capture_output=True, text=True, check=False
    )
    for line in listing.stdout.splitlines():
        pid, process_group, state, command = [*line.split(None, 3), ""][:4]
        if int(process_group) == group and not state.startswith("Z"):
            yield Leftover(int(pid), command)
