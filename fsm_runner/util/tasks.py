"""Tasks that run beside the program's main work."""

import asyncio
from typing import Any

from loguru import logger


def log_defect(task: "asyncio.Task[Any]") -> None:
    """Log the exception that ended a task, as its done callback: its owner may collect the task much later."""
    if not task.cancelled() and (defect := task.exception()) is not None:
        logger.opt(exception=defect).error("the task {!r} ended with a defect", task.get_name())
