"""Measures what one child and its descendants use, and ends them if they exceed a limit.

The kernel's own limits (RLIMIT_…) apply to each process or to all processes of a user, so the use of a run is summed up
here, about twice a second: sooner if a limit is near, later if measuring takes long.
"""

import asyncio
import math
import time
from contextlib import suppress
from typing import Protocol

from loguru import logger

from fsm_runner.process.errors import ProcessStuck
from fsm_runner.process.limits.limits import ResourceLimits, limit_text, size_text
from fsm_runner.process.tree.usage import TreeUsage, Usage

INTERVAL_S = 0.5
FIRST_PAUSE_S = 0.05
"""The pause before the first measurement; each further one is twice as long, up to `INTERVAL_S`."""
SHORTEST_PAUSE_S = 0.02
PAUSE_FACTOR = 10
"""A pause is at least this many times as long as the last measurement took, up to `LONGEST_PAUSE_S`."""
LONGEST_PAUSE_S = 2.0
RUNAWAY_FACTOR = 1.25
"""A child that uses this many times its limit after SIGTERM is killed without its full grace period, in which it could
bring the machine down."""


class LimitedChild(Protocol):
    """The part of a child that the limiter uses. Its text names the process and its run."""

    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    async def exits_within(self, limit_s: float) -> bool: ...
    async def stop(self, term_grace_s: float) -> object:
        """Raises `ProcessStuck`."""


class Limiter:
    """Has one task from `start` to `close`, or none if nothing is limited."""

    def __init__(self, limits: ResourceLimits, usage: TreeUsage, term_grace_s: float) -> None:
        """`term_grace_s`: from SIGTERM to SIGKILL."""
        self.exceeded: str | None = None
        """The limit that was exceeded and what was used, for the run's report."""
        self._limits = limits
        self._usage = usage
        self._term_grace_s = term_grace_s
        self._previous = Usage()
        self._fault: OSError | None = None
        """Why the last measurement failed."""
        self._output_bytes = 0
        self._forks_fast = False
        """It has exceeded the limit of processes by far since the last measurement, so it gets no SIGTERM."""
        self._measured_at = time.monotonic()
        self._hit = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def start(self, child: LimitedChild) -> None:
        if self._limits.need_measuring or self._limits.output_bytes is not None:
            self._watching = asyncio.create_task(self._watch(child), name=f"limits of {child}")
            self._watching.add_done_callback(lambda ended: self._kill_unwatched(ended, child))

    async def cpu_s(self) -> float:
        """Return the CPU time of the child and its descendants so far: as last measured, if a limit needs measuring.

        Must not be called twice at a time. Raises OSError if it cannot be measured.
        """
        if not self._limits.need_measuring:
            return (await self._usage.measure()).cpu_s
        if self._fault is not None:
            raise self._fault
        return self._previous.cpu_s

    def note_exit(self) -> None:
        """Stop measuring: the child has exited, and its descendants are being killed."""
        if self.exceeded is None:
            self.close()

    def close(self) -> None:
        """Cancel the task. May be repeated."""
        if self._watching is not None and not self._watching.done() and not self._watching.get_loop().is_closed():
            self._watching.cancel()

    def note_output(self, output_bytes: int) -> None:
        """`output_bytes`: the total so far."""
        self._output_bytes = output_bytes
        limit = self._limits.output_bytes
        if limit is not None and output_bytes > limit and self.exceeded is None:
            self._exceed(f"output limit of {limit_text(limit)} exceeded")

    def note_end(self, cpu_s: float, *, was_cpu_killed: bool) -> None:
        """Check the CPU time of a child that was reaped.

        `cpu_s`: the CPU time of the child and of the processes that it has waited for. `was_cpu_killed`: the kernel
        killed it because of RLIMIT_CPU, which applies to each process.
        """
        limit_s = self._limits.cpu_s
        if limit_s is None or self.exceeded is not None:
            return
        used_s = cpu_s + self._usage.ended_cpu_s()
        if used_s > limit_s or was_cpu_killed:
            self._exceed(_cpu_text(limit_s, used_s))

    def _exceed(self, text: str) -> None:
        self.exceeded = text
        self._hit.set()

    def _kill_unwatched(self, watching: "asyncio.Task[None]", child: LimitedChild) -> None:
        """Kill the child if the task that watches its limits has failed: it must not run without limits."""
        if not watching.cancelled() and (fault := watching.exception()) is not None:
            logger.opt(exception=fault).error("killing {}: its limits cannot be watched any more", child)
            self.exceeded = self.exceeded or f"killed, because its limits could not be watched: {fault!r}"
            child.kill()

    async def _watch(self, child: LimitedChild) -> None:
        if self._limits.need_measuring:
            await self._measure_until_hit(child)
        else:
            await self._hit.wait()
        logger.warning("ending {}: {}", child, self.exceeded)
        if self._forks_fast:
            child.kill()
        else:
            child.terminate()
        give_up_at = time.monotonic() + self._term_grace_s
        while time.monotonic() < give_up_at and not await child.exits_within(FIRST_PAUSE_S):
            if await self._is_runaway():
                break
        try:
            await child.stop(term_grace_s=0)
        except ProcessStuck as fault:
            logger.warning("{}", fault)

    async def _measure_until_hit(self, child: LimitedChild) -> None:
        pause_s = longest_s = FIRST_PAUSE_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hit.wait()
                return
            longest_s = min(2 * longest_s, INTERVAL_S)
            began = time.monotonic()
            try:
                usage = await self._measure()
                exceeded = await self._exceeded_limit(usage)
            except OSError as fault:  # no descriptor or thread left; there may be one the next time
                logger.debug("{}: cannot measure what it uses: {}", child, fault)
                self._fault = fault
                pause_s = INTERVAL_S
                continue
            self._fault = None
            if exceeded is not None and self.exceeded is None:
                self._forks_fast = usage.is_partial
                self._exceed(exceeded)
            pause_s = self._pause_s(usage, longest_s, took_s=time.monotonic() - began)

    async def _measure(self) -> Usage:
        limit = self._limits.processes
        return await self._usage.measure(None if limit is None else math.ceil(limit * RUNAWAY_FACTOR))

    async def _exceeded_limit(self, usage: Usage) -> str | None:
        limits = self._limits
        if limits.processes is not None and usage.processes > limits.processes:
            more = " or more" if usage.is_partial else ""
            return f"process limit of {limits.processes:,} exceeded ({usage.processes:,} processes{more})"
        if limits.memory_bytes is not None and usage.memory_bytes > limits.memory_bytes:
            used_bytes = await self._usage.exact_memory_bytes()
            if used_bytes > limits.memory_bytes:
                where = "1 process" if usage.processes == 1 else f"{usage.processes:,} processes"
                used = f"{size_text(used_bytes)} in {where}"
                return f"memory limit of {limit_text(limits.memory_bytes)} exceeded ({used})"
        if limits.cpu_s is not None and usage.cpu_s > limits.cpu_s:
            return _cpu_text(limits.cpu_s, usage.cpu_s)
        return None

    async def _is_runaway(self) -> bool:
        output_limit = self._limits.output_bytes
        if output_limit is not None and self._output_bytes > output_limit * RUNAWAY_FACTOR:
            return True
        if not self._limits.need_measuring:
            return False
        try:
            measured = self._measured_limits(await self._measure())
        except OSError:  # no descriptor left
            return False
        return any(used > limit * RUNAWAY_FACTOR for limit, used, _ in measured)

    def _pause_s(self, usage: Usage, longest_s: float, took_s: float) -> float:
        """Half of the time until the first limit would be exceeded at the current rate, within bounds."""
        now = time.monotonic()
        passed_s, self._measured_at = now - self._measured_at, now
        left_s = [
            (limit - used) * passed_s / (used - before)
            for limit, used, before in self._measured_limits(usage)
            if before < used <= limit
        ]
        self._previous = usage
        pause_s = min([longest_s, *(max(each / 2, SHORTEST_PAUSE_S) for each in left_s)])
        return max(pause_s, min(PAUSE_FACTOR * took_s, LONGEST_PAUSE_S))

    def _measured_limits(self, usage: Usage) -> list[tuple[float, float, float]]:
        """Each limit with its use now and at the previous measurement."""
        limits, previous = self._limits, self._previous
        measured = (
            (limits.memory_bytes, usage.memory_bytes, previous.memory_bytes),
            (limits.processes, usage.processes, previous.processes),
            (limits.cpu_s, usage.cpu_s, previous.cpu_s),
        )
        return [(limit, used, before) for limit, used, before in measured if limit is not None]


def _cpu_text(limit_s: float, used_s: float) -> str:
    return f"CPU limit of {limit_s:g} s exceeded ({math.ceil(used_s * 10) / 10:,.1f} s used)"
