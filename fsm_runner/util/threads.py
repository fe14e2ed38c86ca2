"""Work that blocks, in a thread."""

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import Generic, ParamSpec, TypeVar

Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")

_NO_THREAD = "no thread can be started: raise the limit of processes (`ulimit -u`, a container's pids limit)"


async def in_thread(work: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Value:
    """What `work` returns. Raises `OSError` where the system gives no thread, which may pass; nothing is done then."""
    call = _Call(partial(work, *args, **kwargs))
    try:
        working = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError as fault:
        # The executor keeps what it could not start a thread for, and gives it to the next thread.
        call.is_refused = True
        raise OSError(errno.EAGAIN, _NO_THREAD) from fault
    return await working


class _Call(Generic[Value]):
    def __init__(self, work: Callable[[], Value]) -> None:
        self._work = work
        self.is_refused = False

    def __call__(self) -> Value:
        if self.is_refused:
            raise RuntimeError("no thread could be started for this")
        return self._work()
