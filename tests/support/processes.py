"""Whether a process is still there."""

import asyncio
import os
import sys

from tests.support.watch import PATIENCE_S

LOOK_INTERVAL_S = 0.02


async def gone(pid: int) -> None:
    """Return when the process has ended, reaped or not. Raises AssertionError when it does not end."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await (_exit_told(pid) if sys.platform == "linux" else _exit_looked_for(pid))
    except TimeoutError:
        raise AssertionError(f"process {pid} is still there") from None


async def _exit_told(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _exit_looked_for(pid: int) -> None:
    while _is_there(pid):  # noqa: ASYNC110 - only Linux tells about the exit of a process that is not a child
        await asyncio.sleep(LOOK_INTERVAL_S)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
