"""The latest runs that ended here and their reports, for a coordinator that still holds one of them as open."""

import asyncio
from collections.abc import Callable

import msgspec

from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.util.retry import RetryPolicy, Waits

REMEMBERED_RUNS = 1_000
"""The oldest run is forgotten first. If a poll brings a forgotten run again, it is executed again."""


class _EndedRun(msgspec.Struct):
    report: OutboundMessage
    waits: Waits
    not_before_s: float = 0.0
    timer: asyncio.TimerHandle | None = None


class EndedRuns:
    """Resends the report of a run on request, at growing intervals. `close` cancels what is scheduled.

    A coordinator may request the same run every second. Each request is answered by a report that is sent after it,
    and the time between two reports grows as the policy says.
    """

    def __init__(self, policy: RetryPolicy, resend: Callable[[str, OutboundMessage], None]) -> None:
        self._policy = policy
        self._resend = resend
        self._runs: dict[str, _EndedRun] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def add(self, run_id: str, report: OutboundMessage) -> None:
        self.forget(run_id)
        self._runs[run_id] = _EndedRun(report, Waits(self._policy))
        while len(self._runs) > REMEMBERED_RUNS:
            self.forget(next(iter(self._runs)))

    def resend(self, run_id: str) -> None:
        """Send the report again, at once or when the interval since the last time has passed. Raises KeyError."""
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
            self.forget(run_id)

    def _send(self, run_id: str, ended: _EndedRun) -> None:
        ended.timer = None
        ended.not_before_s = asyncio.get_running_loop().time() + ended.waits.next_s()
        self._resend(run_id, ended.report)

    def forget(self, run_id: str) -> None:
        """Send no report of the run any more. It need not be known."""
        if (ended := self._runs.pop(run_id, None)) is not None and ended.timer is not None:
            ended.timer.cancel()
