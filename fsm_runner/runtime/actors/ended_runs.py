"""The latest runs that ended here, and their reports, for a coordinator that still holds one of them as open."""

import asyncio
from collections.abc import Callable

from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.util.retry import RetryPolicy, Waits

REMEMBERED_RUNS = 1_000
"""The oldest run is forgotten first; a poll that brings it again then has it executed again."""

Repeat = Callable[[str, OutboundMessage], None]
"""Sends the report of a run once more."""


class _EndedRun:
    def __init__(self, report: OutboundMessage, policy: RetryPolicy) -> None:
        self.report = report
        self.waits = Waits(policy)
        self.not_before_s = 0.0
        self.timer: asyncio.TimerHandle | None = None


class EndedRuns:
    """Repeats the report of a run when it is asked for, ever less often. `close` cancels what still waits.

    A coordinator may ask for the same run in every second without end. Each request is answered by a repetition that
    begins after it, so none is lost; the time between two repetitions grows as the policy says.
    """

    def __init__(self, policy: RetryPolicy, repeat: Repeat) -> None:
        self._policy = policy
        self._repeat = repeat
        self._runs: dict[str, _EndedRun] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def add(self, run_id: str, report: OutboundMessage) -> None:
        self._forget(run_id)
        self._runs[run_id] = _EndedRun(report, self._policy)
        while len(self._runs) > REMEMBERED_RUNS:
            self._forget(next(iter(self._runs)))

    def repeat(self, run_id: str) -> None:
        """Send the report again, at once or when enough time has passed since the last time. Raises KeyError."""
        ended = self._runs[run_id]
        if ended.timer is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= ended.not_before_s:
            self._send(run_id, ended)
        else:
            ended.timer = loop.call_at(ended.not_before_s, self._send, run_id, ended)

    def close(self) -> None:
        for run_id in list(self._runs):
            self._forget(run_id)

    def _send(self, run_id: str, ended: _EndedRun) -> None:
        ended.timer = None
        ended.not_before_s = asyncio.get_running_loop().time() + ended.waits.next_s()
        self._repeat(run_id, ended.report)

    def _forget(self, run_id: str) -> None:
        ended = self._runs.pop(run_id, None)
        if ended is not None and ended.timer is not None:
            ended.timer.cancel()
