"""Ends a run that is silent: it sends no event, writes no output, and its processes use no CPU time."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from loguru import logger

from fsm_runner.executors.exit_text import with_output
from fsm_runner.journal.records import utc_text
from fsm_runner.process.child.child import Child
from fsm_runner.util.tasks import background_task

LOOKS_PER_LIMIT = 4
"""How often the CPU time of a silent run is measured until the run is ended."""
SHORTEST_PAUSE_S = 0.25
"""The shortest time between two measurements, unless the limit itself is shorter."""
BUSY_SHARE = 0.05
"""A run whose processes use more than this share of one processor between two measurements is busy."""
TICK_S = 0.01
"""The kernel counts CPU time in ticks, so this much is not noticed."""
REST_FACTOR = 9
"""The rest after a measurement is this many times as long, so all measurements use at most a tenth of a processor."""


class SilenceLimit:
    """The limit of all runs of one runner."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.pause_s = max(limit_s / LOOKS_PER_LIMIT, SHORTEST_PAUSE_S)
        self._measuring = asyncio.Lock()
        self._rests_until_s = -math.inf

    @asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Wait for the run's turn. The body measures it.

        Runs are measured one after another, with rests, so that a thousand of them use little of the runner's time.
        """
        clock = asyncio.get_running_loop().time
        async with self._measuring:
            await asyncio.sleep(self._rests_until_s - clock())
            began_s = clock()
            try:
                yield
            finally:
                ended_s = clock()
                self._rests_until_s = ended_s + REST_FACTOR * (ended_s - began_s)


class Watched(Protocol):
    """What works for a run."""

    @property
    def process(self) -> Child | None:
        """The process that works; None before its start."""


class _Event(NamedTuple):
    at_s: float
    what: str


class SilenceWatch:
    """Watches the executions of one run. It has one task while the run executes, or none without a limit.

    Events and output are noted as they arrive, and while they do, nothing is measured. Otherwise the CPU time of the
    run's processes is measured four times until the limit is reached. CPU time before the last event or output, and
    after the measurement before it, counts as used after it; so a run may end up to a quarter of the limit late, but
    never early. Times are those of the event loop's clock.
    """

    def __init__(self, run_id: str, limit: SilenceLimit | None, on_silent: Callable[[str], None]) -> None:
        """`on_silent` is called at most once for each execution, with the text for the run's error."""
        self._run_id = run_id
        self._limit = limit
        self._on_silent = on_silent
        self._began_s = self._busy_s = -math.inf
        self._event = _Event(-math.inf, "")

    def note(self, what: str) -> None:
        """Note an event of the executor; `what` follows "last event" in the run's error."""
        if self._limit is not None:
            self._event = _Event(asyncio.get_running_loop().time(), what)

    @asynccontextmanager
    async def over(self, execution: Watched) -> AsyncIterator[None]:
        """Watch an execution while the body runs."""
        if self._limit is None:
            yield
            return
        async with background_task(self._watch(execution, self._limit), name=f"silence of {self._run_id}"):
            yield

    async def _watch(self, execution: Watched, limit: SilenceLimit) -> None:
        clock = asyncio.get_running_loop().time
        self._began_s = clock()
        meter = _CpuMeter(self._run_id, limit)
        while True:
            active_s = self._active_s(execution.process)
            end_s = active_s + limit.limit_s
            due_s = max(active_s, meter.measured_s) + limit.pause_s
            is_last = end_s - due_s < limit.pause_s / 2
            await asyncio.sleep((end_s if is_last else due_s) - clock())
            process = execution.process
            if self._active_s(process) > active_s:
                continue
            if await meter.is_busy(process, active_s):
                self._busy_s = meter.measured_s
            if is_last and self._active_s(process) == active_s:
                self._on_silent(self._error(process, limit.limit_s, clock()))
                return

    def _active_s(self, process: Child | None) -> float:
        """The time of the last sign of work."""
        written_s = -math.inf if process is None else process.output.last_read.at_s
        return max(self._began_s, self._event.at_s, self._busy_s, written_s)

    def _error(self, process: Child | None, limit_s: float, now_s: float) -> str:
        def when(at_s: float) -> str:
            return f"{utc_text(now_s - at_s)[:19]}Z"

        last = [f"executing since {when(self._began_s)}"]
        if self._event.at_s >= self._began_s:
            last.append(f"last event: {self._event.what} at {when(self._event.at_s)}")
        if process is not None and (read := process.output.last_read).at_s >= self._began_s:
            last.append(f"last output: {read.stream} at {when(read.at_s)}")
        if self._busy_s >= self._began_s:
            last.append(f"last busy at {when(self._busy_s)}")
        reason = (
            f"silent: no event, no output and no busy process for {limit_s:g} s (silence timeout); {'; '.join(last)}"
        )
        return reason if process is None else with_output(reason, *process.output.captures)


class _CpuMeter:
    """Finds out whether processes are busy, by their CPU time."""

    def __init__(self, run_id: str, limit: SilenceLimit) -> None:
        self._run_id = run_id
        self._limit = limit
        self._clock = asyncio.get_running_loop().time
        self._cpu_s = 0.0
        self.measured_s = self._clock()

    async def is_busy(self, process: Child | None, since_s: float) -> bool:
        """Return True if the processes were busy since the last measurement, or since `since_s` if that was later."""
        before_s, since_s = self._cpu_s, max(self.measured_s, since_s)
        is_unknown = False
        async with self._limit.measuring():
            try:
                self._cpu_s = 0.0 if process is None else await process.cpu_s()
            except OSError as fault:  # no descriptor left; there may be one the next time
                logger.debug("{}: cannot measure its CPU time: {}", self._run_id, fault)
                is_unknown = True
        self.measured_s = self._clock()
        return is_unknown or self._cpu_s - before_s > BUSY_SHARE * (self.measured_s - since_s) + TICK_S
