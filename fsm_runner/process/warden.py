"""Ends what a runner leaves behind when it dies without a word: by SIGKILL, or for want of memory.

The warden is a tiny process of its own that holds one end of a pipe. The other end is the runner's alone, so the
pipe ends with the runner, however that dies. What has the runner's mark or watermark is then ended. The mark is
that of this one process of the runner, so the next one has nothing to fear.

The kernel's own means (PR_SET_PDEATHSIG) reaches only direct children, is lost when a setuid program is executed,
goes by the thread and not the process that has started the child, and can only be set between fork and exec, in a
`preexec_fn` that is slow and may deadlock.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from loguru import logger

from fsm_runner.process import warden_program
from fsm_runner.process.exit_watch import ExitWatch, watch_exit
from fsm_runner.process.orphans import ORPHANS
from fsm_runner.process.owner import OWNER_VARIABLE
from fsm_runner.process.procfs import offers_pidfds
from fsm_runner.process.spawn import spawn
from fsm_runner.process.tree import TREE_VARIABLE
from fsm_runner.process.watermark import owner_part

LEAVE_S = 5.0
"""How long the warden may take to look once more and leave, when its runner ends."""

_PASSED_ON = ("LD_LIBRARY_PATH", TREE_VARIABLE)
"""What an interpreter may need to start, and what tells that the warden is itself part of a run."""


class Warden:
    """An async context manager for the life of a runner. `owner` is the value of `OWNER_VARIABLE` of all it starts.

    At the end it ends what is left, too. Where Linux' /proc or pidfds are missing (macOS) it is not started: what a
    killed runner leaves there goes on until the sweep of the next start.
    """

    def __init__(self, owner: str) -> None:
        self._told = (f"{OWNER_VARIABLE}={owner}", str(owner_part(owner)))
        self._process: subprocess.Popen[bytes] | None = None
        self._runners_end = -1
        self._watch: ExitWatch | None = None
        self._ended = asyncio.Event()
        self._is_leaving = False

    @property
    def pid(self) -> int | None:
        """None where it is not started."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        """Raises `SpawnFailed`, or OSError and RuntimeError where no descriptor or thread is left."""
        if not _can_work():
            logger.info("this system has no warden: what a killed runner leaves behind ends when it starts again")
            return self
        wardens_end, self._runners_end = os.pipe()
        try:
            self._process = _started(self._told, wardens_end)
            ORPHANS.know(self._process.pid)
            self._watch = watch_exit(self._process.pid, self._note_end)
        except BaseException:
            self._let_go()
            self._end()
            raise
        finally:
            os.close(wardens_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._is_leaving = True
        self._let_go()
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._ended.wait()
        except TimeoutError:
            logger.warning("the warden, process {}, does not leave: what it has to end is held", self._process.pid)
        finally:
            self._end()

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._reap(self._process)

    def _note_end(self) -> None:
        if self._process is not None:
            self._reap(self._process)
        if not self._is_leaving:
            logger.warning("the warden has ended: were the runner killed, its runs would go on until it starts again")
        self._ended.set()

    def _reap(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        ORPHANS.forget(process.pid)

    def _let_go(self) -> None:
        if self._runners_end >= 0:
            os.close(self._runners_end)
            self._runners_end = -1


def _can_work() -> bool:
    return bool(sys.executable) and Path("/proc/self/environ").exists() and offers_pidfds()


def _started(told: tuple[str, ...], stdin: int) -> "subprocess.Popen[bytes]":
    return spawn(
        [sys.executable, "-I", "-S", "-E", warden_program.__file__, *told],
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        cwd=Path("/"),
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
