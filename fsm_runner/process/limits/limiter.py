"""Sees to it that one child keeps within its limits, and ends it where it does not.

The kernel's own limits (RLIMIT_…) are each process's, or the user's as a whole, so what a run uses is summed up here,
about twice a second: sooner where the last looks say that a limit is near, later where there is much to look at.
"""

import asyncio
import math
import time
from typing import Protocol

from loguru import logger

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.errors import ProcessStuck
from fsm_runner.process.limits.limits import ResourceLimits, limit_text, size_text
from fsm_runner.process.tree.usage import TreeUsage, Usage

LOOK_INTERVAL_S = 0.5
FIRST_LOOK_S = 0.05
"""After the start; each pause is twice as long as the one before, up to `LOOK_INTERVAL_S`."""
SOONEST_LOOK_S = 0.02
LOOKS_SHARE = 10
"""A pause is so many times as long as the look before it took, at least: many processes are looked at less often."""
LONGEST_PAUSE_S = 2.0
"""However many there are."""
TERM_GRACE_S = 5.0
"""From SIGTERM to SIGKILL, as in a stop."""
RUNAWAY = 1.25
"""Who uses so many times its limit, after SIGTERM, is killed at once: in the whole of its grace it could bring the
machine down."""


_TOO_MANY_FILES = "too many open files"
"""How the C library, and so nearly every program, calls EMFILE."""


class Limited(Protocol):
    """What the limiter does with the child."""

    @property
    def pid(self) -> int: ...

    def terminate(self) -> None:
        """SIGTERM to its group, if it was not sent yet."""

    def kill(self) -> None:
        """SIGKILL to its group; what is elsewhere is stopped until it has exited, and killed then."""

    async def exits_within(self, limit_s: float) -> bool: ...

    async def stop(self, term_grace_s: float) -> object:
        """Raises `ProcessStuck`."""


class Limiter:
    """Has one task, from `start` to `close`; none where there is nothing to be looked at."""

    def __init__(self, limits: ResourceLimits, usage: TreeUsage) -> None:
        self.exceeded: str | None = None
        """The limit that it did not keep, and what it used, for the run's report."""
        self._limits = limits
        self._usage = usage
        self._before = Usage()
        self._output_bytes = 0
        self._forks_away = False
        """It has started so many processes since the last look that nobody knows how many there are by the next."""
        self._looked_at_s = 0.0
        self._hit = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def start(self, child: Limited) -> None:
        if self._limits.need_looks or self._limits.output_bytes is not None:
            self._looked_at_s = time.monotonic()
            self._watching = asyncio.create_task(self._watch(child), name=f"limits of process {child.pid}")
            self._watching.add_done_callback(lambda ended: self._end_unwatched(ended, child))

    def note_exit(self) -> None:
        """Stop checking the limits: the child has exited, and processes that it left behind are being killed."""
        if self.exceeded is None:
            self.close()

    def close(self) -> None:
        """Nothing is left of the child, or its loop has ended. May be repeated."""
        if self._watching is not None and not self._watching.done() and not self._watching.get_loop().is_closed():
            self._watching.cancel()

    def note_output(self, output_bytes: int) -> None:
        """So much was written until now."""
        self._output_bytes = output_bytes
        limit = self._limits.output_bytes
        if limit is not None and output_bytes > limit and self.exceeded is None:
            self._exceed(f"output limit of {limit_text(limit)} exceeded")

    def note_end(self, cpu_s: float, *, was_cpu_killed: bool) -> None:
        """The child was reaped: it and those that it has waited for have used `cpu_s`. `was_cpu_killed`: it has died
        from RLIMIT_CPU, which counts each process."""
        limit_s = self._limits.cpu_s
        if limit_s is None or self.exceeded is not None:
            return
        used_s = cpu_s + self._usage.ended_cpu_s()
        if used_s > limit_s or was_cpu_killed:
            self._exceed(_cpu_text(limit_s, used_s))

    def _exceed(self, text: str) -> None:
        self.exceeded = text
        self._hit.set()

    def _end_unwatched(self, watching: "asyncio.Task[None]", child: Limited) -> None:
        """Kill the child if the task that watches its limits has failed: it must not run without limits."""
        if not watching.cancelled() and (fault := watching.exception()) is not None:
            logger.opt(exception=fault).error("process {} is killed: its limits cannot be watched any more", child.pid)
            self.exceeded = self.exceeded or f"killed, because its limits could not be watched: {fault!r}"
            child.kill()

    async def _watch(self, child: Limited) -> None:
        if self._limits.need_looks:
            await self._look_until_hit()
        else:
            await self._hit.wait()
        logger.warning("process {} is ended: {}", child.pid, self.exceeded)
        if self._forks_away:
            child.kill()
        else:
            child.terminate()
        give_up_at = time.monotonic() + TERM_GRACE_S
        while time.monotonic() < give_up_at and not await child.exits_within(FIRST_LOOK_S):
            if await self._is_runaway():
                break
        try:
            await child.stop(term_grace_s=0)
        except ProcessStuck as fault:
            logger.warning("{}", fault)

    async def _look_until_hit(self) -> None:
        pause_s = longest_s = FIRST_LOOK_S
        while not await self._is_hit_within(pause_s):
            longest_s = min(2 * longest_s, LOOK_INTERVAL_S)
            began = time.monotonic()
            try:
                usage = await self._look()
                exceeded = await self._judgement(usage)
            except OSError as fault:  # no descriptor or thread left; there may be one the next time
                logger.debug("a run's processes cannot be looked at: {}", fault)
                pause_s = LOOK_INTERVAL_S
                continue
            if exceeded is not None and self.exceeded is None:
                self._forks_away = usage.is_cut
                self._exceed(exceeded)
            pause_s = self._pause_s(usage, longest_s, took_s=time.monotonic() - began)

    async def _is_hit_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._hit.wait()
        except TimeoutError:
            return False
        return True

    async def _look(self) -> Usage:
        most = self._limits.processes
        return await self._usage.look(None if most is None else math.ceil(most * RUNAWAY))

    async def _judgement(self, usage: Usage) -> str | None:
        limits = self._limits
        if limits.processes is not None and usage.processes > limits.processes:
            more = " or more" if usage.is_cut else ""
            return f"process limit of {limits.processes:,} exceeded ({usage.processes:,} processes{more})"
        if limits.memory_bytes is not None and usage.memory_bytes > limits.memory_bytes:
            used_bytes = await self._usage.exact_memory_bytes()
            if used_bytes > limits.memory_bytes:
                used = f"{size_text(used_bytes)} in {_processes(usage.processes)}"
                return f"memory limit of {limit_text(limits.memory_bytes)} exceeded ({used})"
        if limits.cpu_s is not None and usage.cpu_s > limits.cpu_s:
            return _cpu_text(limits.cpu_s, usage.cpu_s)
        return None

    async def _is_runaway(self) -> bool:
        output_limit = self._limits.output_bytes
        if output_limit is not None and self._output_bytes > output_limit * RUNAWAY:
            return True
        if not self._limits.need_looks:
            return False
        try:
            shares = self._shares(await self._look())
        except OSError:  # no descriptor left
            return False
        return any(used > limit * RUNAWAY for limit, used, _ in shares)

    def _pause_s(self, usage: Usage, longest_s: float, took_s: float) -> float:
        """Half of the time until the first limit would be hit, were it to go on like that."""
        now = time.monotonic()
        passed_s, self._looked_at_s = now - self._looked_at_s, now
        left_s = [
            (limit - used) * passed_s / (used - before)
            for limit, used, before in self._shares(usage)
            if before < used <= limit
        ]
        self._before = usage
        pause_s = min([longest_s, *(max(each / 2, SOONEST_LOOK_S) for each in left_s)])
        return max(pause_s, min(LOOKS_SHARE * took_s, LONGEST_PAUSE_S))

    def _shares(self, usage: Usage) -> list[tuple[float, float, float]]:
        """Of each limit: how much is allowed, what is used, and what was at the look before."""
        limits, before = self._limits, self._before
        shares = (
            (limits.memory_bytes, usage.memory_bytes, before.memory_bytes),
            (limits.processes, usage.processes, before.processes),
            (limits.cpu_s, usage.cpu_s, before.cpu_s),
        )
        return [(limit, used, earlier) for limit, used, earlier in shares if limit is not None]


def open_files_text(limits: ResourceLimits, code: int, *outputs: BoundedCapture) -> str | None:
    """What a child failed of that says that it could open no more files; None where it says nothing of it.

    The kernel keeps this limit and tells nobody but the process, so there is nothing else to go by.
    """
    if limits.open_files is None or code == 0:
        return None
    for output in outputs:
        said = output.text()
        if _TOO_MANY_FILES in said.lower():
            return f"limit of {limits.open_files:,} open files in a process reached: {said.strip()}"
    return None


def _cpu_text(limit_s: float, used_s: float) -> str:
    return f"CPU limit of {limit_s:g} s exceeded ({math.ceil(used_s * 10) / 10:,.1f} s used)"


def _processes(number: int) -> str:
    return f"{number:,} {'process' if number == 1 else 'processes'}"
