"""Notices when the coordinator has been away for longer than the operator allows."""

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger


class OutageWatch:
    """An outage begins with the first call that is not answered, and ends with the first one that is.

    `on_too_long` is called once for each outage that lasts `limit_s`; None: never. Before that, `is_answered` is
    called: polls can fail for minutes because of a proxy's time limit while the coordinator is up. Use `aclose` at the
    end.
    """

    def __init__(
        self,
        limit_s: float | None,
        on_too_long: Callable[[str], None],
        is_answered: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """`is_answered` calls the coordinator now and returns whether it answers; None: no such call is made."""
        self._limit_s = limit_s
        self._on_too_long = on_too_long
        self._is_answered = is_answered
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None

    def unanswered(self) -> None:
        is_checking = self._check is not None and not self._check.done()
        if self._limit_s is not None and self._timer is None and not is_checking:
            self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._expired, self._limit_s)

    def answered(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        self.answered()
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])

    def _expired(self, limit_s: float) -> None:
        if self._is_answered is None:
            self._say(limit_s)
        else:
            self._check = asyncio.create_task(self._verify(self._is_answered, limit_s), name="outage check")

    async def _verify(self, is_answered: Callable[[], Awaitable[bool]], limit_s: float) -> None:
        try:
            answered = await is_answered()
        except Exception as defect:  # noqa: BLE001 - the operator's limit holds, whatever goes wrong here
            logger.opt(exception=defect).error("the check whether the coordinator answers has failed")
            answered = False
        if answered:
            logger.debug("calls have failed for {:g} s, but the coordinator answers a heartbeat: no outage", limit_s)
            self.answered()
        elif self._timer is not None:
            self._say(limit_s)

    def _say(self, limit_s: float) -> None:
        self._on_too_long(f"the coordinator has not answered for {limit_s:g} s")
