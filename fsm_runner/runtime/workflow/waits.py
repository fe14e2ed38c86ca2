"""Waits for a time."""

import time
from datetime import UTC, datetime

from fsm_runner.process.child.child import Child
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.util.wall_clock import sleep_until
from fsm_runner.workflow.definition import Wait


class WaitStep:
    """Waits until a wall-clock time, which the journal keeps."""

    def __init__(self, visit: Visit, activity: Wait) -> None:
        self._visit = visit
        self._activity = activity

    @property
    def process(self) -> Child | None:
        return None

    async def perform(self) -> Ended:
        if self._visit.progress is None:
            try:
                due_s = self._due_s()
            except ValueError as defect:
                return Ended("error", {"ok": False, "error": str(defect)})
            self._visit.save(str(due_s).encode())
        else:
            due_s = float(self._visit.progress)
        await sleep_until(lambda: due_s, time.time)
        return Ended("done", {"ok": True, "error": ""})

    async def stop(self) -> StopSignal:
        return "shutdown"

    async def aclose(self) -> None:
        """Nothing to end."""

    def _due_s(self) -> float:
        """Raises ValueError, which says what was expected."""
        if self._activity.for_s is not None:
            return time.time() + self._activity.for_s
        return due_s_of(self._activity.until or "")


def due_s_of(text: str) -> float:
    """Return a time with an offset as Unix time. Raises ValueError, which says what was expected."""
    expected = f"until: expected a time with an offset, such as 2026-03-01T09:00:00+01:00, not {text!r}"
    try:
        due = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(expected) from None
    if due.tzinfo is None:
        raise ValueError(expected)
    return due.astimezone(UTC).timestamp()
