"""Runs blocking work in a thread."""

import asyncio
import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")

_NO_THREAD = "no thread can be started: raise the limit of processes (`ulimit -u`, a container's pids limit)"


async def in_thread(work: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Value:
    """Return what `work` returns. Raises `OSError` without calling it if no thread can be started at the moment."""
    is_abandoned = False

    def call() -> Value:
        if is_abandoned:
            raise RuntimeError("no thread could be started for this")
        return work(*args, **kwargs)

    try:
        working = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError as error:
        # The executor keeps the call, and passes it to the next thread that it starts.
        is_abandoned = True
        raise OSError(errno.EAGAIN, _NO_THREAD) from error
    return await working
