"""Warnings about lasting conditions, with a minimum interval between repetitions."""

import asyncio
import math

from loguru import logger


class RareWarning:
    """A warning that `log` writes at most once per `interval_s`."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._logged_at_s = -math.inf

    def log(self, message: str, *values: object) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._logged_at_s + self._interval_s:
            self._logged_at_s = now_s
            logger.warning(message, *values)
