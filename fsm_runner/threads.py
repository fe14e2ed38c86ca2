"""Work that blocks, in a thread."""

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")

_NO_THREAD = "no thread can be started: raise the limit of processes (`ulimit -u`, a container's pids limit)"


async def in_thread(work: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Value:
    """What `work` returns. Raises `OSError` where the system gives no thread; that may pass."""
    try:
        working = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **kwargs))
    except RuntimeError as fault:
        raise OSError(errno.EAGAIN, _NO_THREAD) from fault
    return await working
