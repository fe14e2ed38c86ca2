"""Notices when the coordinator has been away for longer than the operator allows."""

import asyncio
from collections.abc import Callable


class OutageWatch:
    """An outage begins with the first call that is not answered, and ends with the first one that is.

    `on_too_long` is called once for each outage that lasts `limit_s`; None: never.
    """

    def __init__(self, limit_s: float | None, on_too_long: Callable[[str], None]) -> None:
        self._limit_s = limit_s
        self._on_too_long = on_too_long
        self._timer: asyncio.TimerHandle | None = None

    def unanswered(self) -> None:
        if self._limit_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._say, self._limit_s)

    def answered(self) -> None:
        """Also ends the watch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say(self, limit_s: float) -> None:
        self._on_too_long(f"the coordinator has not answered for {limit_s:g} s")
