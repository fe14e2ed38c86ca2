"""The watchdog: a small process that kills what a runner leaves behind when the runner is killed, for example by the
kernel when memory runs out.

It holds one end of a pipe, and only the runner holds the other, so the pipe closes whenever the runner ends. Then the
watchdog kills every process with a tag of this runner process. A later process of the same runner has another tag.

PR_SET_PDEATHSIG is no alternative: it reaches only direct children, is lost when a setuid program is executed, depends
on the thread that started the child, and can only be set between fork and exec, in a `preexec_fn` that may deadlock.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from loguru import logger

from fsm_runner.process.child.spawn import spawn
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.exit_watch import ExitWatch, watch_exit
from fsm_runner.process.leftovers import watchdog_program
from fsm_runner.process.reaping import Reaped, reap
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, TREE_TAG_VARIABLE
from fsm_runner.process.tree.rlimit_tag import tag_prefix
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.util.retry import RetryPolicy, Waits

EXIT_WAIT_S = 5.0
"""The longest time that an ending runner waits for its watchdog to kill the remaining processes."""
RESTARTS = RetryPolicy(base_s=0.5, cap_s=30.0)
STEADY_S = 60.0
"""After a watchdog has lived this long, the waits between restarts begin with the shortest one again."""

_PASSED_ON = ("LD_LIBRARY_PATH", TREE_TAG_VARIABLE)
"""The first may be needed to start an interpreter; the second shows that the watchdog is part of an outer run."""
_NO_WATCHDOG = "there is no watchdog, so a killed runner would leave its executors running until it starts again"


class Watchdog:
    """Runs a watchdog process beside a runner, as an async context manager, and replaces one that was killed.

    When the runner ends, the watchdog also kills the remaining processes. On systems without Linux' /proc or pidfds
    (macOS) there is no watchdog: leftovers of a killed runner run until its next start.
    """

    def __init__(self, runner_tag: str) -> None:
        """`runner_tag`: the value of `RUNNER_TAG_VARIABLE` in everything that the runner starts."""
        self.problem: str | None = None
        """Why there is no watchdog now, for the log and the health check; None if there is one."""
        self._arguments = (f"{RUNNER_TAG_VARIABLE}={runner_tag}", str(tag_prefix(runner_tag)))
        self._process: subprocess.Popen[bytes] | None = None
        self._runners_end = -1
        self._watch: ExitWatch | None = None
        self._ended = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """None if no watchdog is running."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        """Raises `SpawnFailed`, or OSError and RuntimeError if no descriptor or thread is left."""
        if not (sys.executable and procfs.offers_processes() and procfs.offers_pidfds()):
            logger.info("this system supports no watchdog: leftovers of a killed runner run until it starts again")
            return self
        self._start()
        self._replacing = asyncio.create_task(self._replace_each(), name="watchdog")
        self._replacing.add_done_callback(self._note_failure)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        if self._process is None:
            return
        self._close_pipe()
        try:
            async with asyncio.timeout(EXIT_WAIT_S):
                await self._ended.wait()
        except TimeoutError:
            logger.warning("the runner ends before its watchdog, process {}, has killed all processes", self.pid)
            self._process.returncode = 0  # keeps Popen from warning that it still runs
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def _start(self) -> None:
        """Raises what `__aenter__` raises."""
        watchdogs_end, self._runners_end = os.pipe()
        try:
            self._ended.clear()
            self._process = spawn(
                [sys.executable, "-I", "-S", "-E", watchdog_program.__file__, *self._arguments],
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                cwd=Path("/"),
                stdin=watchdogs_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            SUBREAPER.known.add(self._process.pid)
            self._watch = watch_exit(self._process.pid, self._on_exit)
        except BaseException:
            self._close_pipe()
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                self._reap(process)
            raise
        finally:
            os.close(watchdogs_end)

    async def _replace_each(self) -> None:
        waits = Waits(RESTARTS)
        while True:
            started_at = time.monotonic()
            await self._ended.wait()
            if time.monotonic() - started_at > STEADY_S:
                waits.reset()
            while self.problem is not None:
                await asyncio.sleep(waits.next_s())
                try:
                    self._start()
                except (SpawnFailed, OSError, RuntimeError) as fault:
                    problem = f"{_NO_WATCHDOG}: it cannot be started again: {fault}"
                    if problem != self.problem:
                        logger.warning("{}; the next attempts follow at most {:g} s apart", problem, RESTARTS.cap_s)
                    self.problem = problem
                else:
                    self.problem = None
                    logger.info("the watchdog runs again as process {}", self.pid)

    def _note_failure(self, replacing: "asyncio.Task[None]") -> None:
        if not replacing.cancelled() and (fault := replacing.exception()) is not None:
            self.problem = f"a watchdog that ends is not replaced: {fault!r}"
            logger.opt(exception=fault).error("{}", self.problem)

    def _on_exit(self) -> None:
        if self._process is not None:
            ended = self._reap(self._process)
            if self._runners_end >= 0:  # otherwise the runner is ending
                how = f"was killed by {ended.signal}" if ended.signal else f"ended with exit code {ended.code}"
                self.problem = f"{_NO_WATCHDOG}: process {self._process.pid} {how}"
                logger.warning("{}; starting another one", self.problem)
                self._process = None
                self._close_pipe()
        self._ended.set()

    def _reap(self, process: "subprocess.Popen[bytes]") -> Reaped:
        reaped = reap(process)
        SUBREAPER.known.discard(process.pid)
        return reaped

    def _close_pipe(self) -> None:
        if self._runners_end >= 0:
            os.close(self._runners_end)
            self._runners_end = -1
