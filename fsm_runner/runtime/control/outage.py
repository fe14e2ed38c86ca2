"""Reports an outage of the coordinator that lasts longer than the operator allows."""

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger


class OutageTimer:
    """Times outages. An outage begins with the first call that is not answered; the first answered call ends it.

    `run` calls `on_too_long` once for each outage that lasts `limit_s`. With a limit of None it never does.
    """

    def __init__(self, limit_s: float | None, on_too_long: Callable[[str], None]) -> None:
        self._limit_s = limit_s
        self._on_too_long = on_too_long
        self._began, self._ended = asyncio.Event(), asyncio.Event()
        self._is_confirming = False
        """The heartbeat that confirms an outage may fail after an answer has ended it: that begins no further one."""

    def unanswered(self) -> None:
        """Note that a call was not answered."""
        if not self._is_confirming:
            self._ended.clear()
            self._began.set()

    def answered(self) -> None:
        """Note that a call was answered."""
        self._began.clear()
        self._ended.set()

    async def run(self, is_answered: Callable[[], Awaitable[bool]]) -> None:
        """Time outages until cancelled. Without a limit, return at once.

        Before an outage is reported, `is_answered` calls the coordinator once more: polls can fail for minutes
        because of a proxy's time limit while the coordinator is up.
        """
        while self._limit_s is not None:
            await self._began.wait()
            try:
                async with asyncio.timeout(self._limit_s):
                    await self._ended.wait()
            except TimeoutError:
                if not await self._is_over(is_answered, self._limit_s):
                    self._on_too_long(f"the coordinator has not answered for {self._limit_s:g} s")
                    await self._ended.wait()

    async def _is_over(self, is_answered: Callable[[], Awaitable[bool]], limit_s: float) -> bool:
        self._is_confirming = True
        try:
            if await is_answered():
                logger.debug("calls failed for {:g} s, but the coordinator answers a heartbeat: no outage", limit_s)
                self.answered()
        except Exception as defect:  # noqa: BLE001 - the operator's limit applies even if the check is defective
            logger.opt(exception=defect).error("the heartbeat that confirms an outage failed with a defect")
        finally:
            self._is_confirming = False
        return self._ended.is_set()
