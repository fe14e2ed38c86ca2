"""Reports where a workflow is, as the session's field `workflow` (docs/protocol.md, section 1.4)."""

import asyncio
from collections.abc import Callable

from fsm_runner.protocol.wire import JsonObject

DELAY_S = 0.5
"""A state that the workflow leaves sooner is not reported, unless it waits for an approval."""


class StatusReport:
    """Sends the field when the workflow stays in a state, and null at its end if it has sent anything."""

    def __init__(self, send: Callable[[JsonObject | None], None], *, has_sent: bool = False) -> None:
        """`has_sent`: whether an earlier process of the runner may have sent it."""
        self._send = send
        self._has_sent = has_sent
        self._timer: asyncio.TimerHandle | None = None

    def note(self, status: JsonObject, *, at_once: bool) -> None:
        """Send this status soon, or at once, instead of one that was not sent yet."""
        self.cancel()
        if at_once:
            self._send_now(status)
        else:
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self._send_now, status)

    def close(self) -> None:
        """The workflow has ended. May be repeated."""
        self.cancel()
        if self._has_sent:
            self._has_sent = False
            self._send(None)

    def _send_now(self, status: JsonObject) -> None:
        self._timer, self._has_sent = None, True
        self._send(status)

    def cancel(self) -> None:
        """Send nothing more: another status follows, or the runner's next process continues the run."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
