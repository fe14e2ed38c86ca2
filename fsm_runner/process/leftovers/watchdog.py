"""Ends what a runner leaves behind when it dies without a word: by SIGKILL, or for want of memory.

The watchdog is a tiny process of its own that holds one end of a pipe. The other end is the runner's alone, so the
pipe ends with the runner, however that dies. What has the runner's mark or rlimit tag is then ended. The mark is
that of this one process of the runner, so the next one has nothing to fear.

The kernel's own means (PR_SET_PDEATHSIG) reaches only direct children, is lost when a setuid program is executed,
goes by the thread and not the process that has started the child, and can only be set between fork and exec, in a
`preexec_fn` that is slow and may deadlock.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from loguru import logger

from fsm_runner.process.child.spawn import spawn
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.exit_watch import ExitWatch, watch_exit
from fsm_runner.process.leftovers import watchdog_program
from fsm_runner.process.reaping import Reaped, reap
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.process_tree import TREE_TAG_VARIABLE
from fsm_runner.process.tree.procfs import offers_pidfds
from fsm_runner.process.tree.rlimit_tag import tag_prefix
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.util.retry import RetryPolicy, Waits

LEAVE_S = 5.0
"""How long a runner that ends waits for its watchdog to end the remaining processes. Then the runner ends first."""
RESTARTS = RetryPolicy(base_s=0.5, cap_s=30.0)
STEADY_S = 60.0
"""After a watchdog has lived this long, the waits between restarts begin with the shortest one again."""

_PASSED_ON = ("LD_LIBRARY_PATH", TREE_TAG_VARIABLE)
"""What an interpreter may need to start, and what tells that the watchdog is itself part of a run."""
_NO_WARDEN = "there is no watchdog, so a killed runner would leave its executors running until it starts again"


class Watchdog:
    """Runs beside a runner, as an async context manager. `owner`: the value of `RUNNER_TAG_VARIABLE` of all it starts.

    When the runner ends, the watchdog also ends the remaining processes. A watchdog that is killed is replaced.
    On systems without Linux' /proc or pidfds (macOS) none is started: what a killed runner leaves there runs until the
    next start sweeps it up.
    """

    def __init__(self, owner: str) -> None:
        self.problem: str | None = None
        """Why there is no watchdog now, so a killed runner would leave its executors running; None if there is one.
        """
        self._told = (f"{RUNNER_TAG_VARIABLE}={owner}", str(tag_prefix(owner)))
        self._process: subprocess.Popen[bytes] | None = None
        self._runners_end = -1
        self._watch: ExitWatch | None = None
        self._ended = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """None where it is not started."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        """Raises `SpawnFailed`, or OSError and RuntimeError where no descriptor or thread is left."""
        if not _can_work():
            logger.info("this system has no watchdog: what a killed runner leaves behind ends when it starts again")
            return self
        self._start()
        self._replacing = asyncio.create_task(self._replace_each(), name="watchdog")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        if self._process is None:
            return
        self._let_go()
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._ended.wait()
        except TimeoutError:
            logger.warning("the runner ends before its watchdog, process {}, which still ends executors", self.pid)
            self._process.returncode = 0  # keeps Popen from warning that it still runs
        finally:
            self._stop_watching()

    def _start(self) -> None:
        """Raises what `__aenter__` raises."""
        wardens_end, self._runners_end = os.pipe()
        try:
            self._ended.clear()
            self._process = _started(self._told, wardens_end)
            SUBREAPER.add_known(self._process.pid)
            self._watch = watch_exit(self._process.pid, self._note_end)
        except BaseException:
            self._let_go()
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                self._reap(process)
            raise
        finally:
            os.close(wardens_end)

    async def _replace_each(self) -> None:
        waits = Waits(RESTARTS)
        while True:
            started_at = time.monotonic()
            await self._ended.wait()
            if time.monotonic() - started_at > STEADY_S:
                waits.reset()
            await self._replace(waits)

    async def _replace(self, waits: Waits) -> None:
        while self.problem is not None:
            await asyncio.sleep(waits.next_s())
            try:
                self._start()
            except (SpawnFailed, OSError, RuntimeError) as fault:
                problem = f"{_NO_WARDEN}: it cannot be started again: {fault}"
                if problem != self.problem:
                    logger.warning("{}; it is tried again every {:g} s or sooner", problem, RESTARTS.cap_s)
                self.problem = problem
            else:
                self.problem = None
                logger.info("there is a watchdog again: process {}", self.pid)

    def _note_end(self) -> None:
        if self._process is not None:
            ended = self._reap(self._process)
            is_leaving = self._runners_end < 0
            if not is_leaving:
                how = f"was ended by {ended.signal}" if ended.signal else f"has ended with exit code {ended.code}"
                self.problem = f"{_NO_WARDEN}: process {self._process.pid} {how}"
                logger.warning("{}; another one is started", self.problem)
                self._process = None
                self._let_go()
        self._ended.set()

    def _reap(self, process: "subprocess.Popen[bytes]") -> Reaped:
        reaped = reap(process)
        SUBREAPER.remove_known(process.pid)
        return reaped

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _let_go(self) -> None:
        if self._runners_end >= 0:
            os.close(self._runners_end)
            self._runners_end = -1


def _can_work() -> bool:
    return bool(sys.executable) and Path("/proc/self/environ").exists() and offers_pidfds()


def _started(told: tuple[str, ...], stdin: int) -> "subprocess.Popen[bytes]":
    return spawn(
        [sys.executable, "-I", "-S", "-E", watchdog_program.__file__, *told],
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        cwd=Path("/"),
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
