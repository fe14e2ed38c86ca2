"""Warnings about conditions that last: the log repeats each only now and then."""

import asyncio
import math

from loguru import logger


class RareWarning:
    """A warning that is logged at most once in `each_s` seconds, however often `log` is called."""

    def __init__(self, each_s: float) -> None:
        self._each_s = each_s
        self._logged_at_s = -math.inf

    def log(self, message: str, *values: object) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._logged_at_s + self._each_s:
            self._logged_at_s = now_s
            logger.warning(message, *values)
