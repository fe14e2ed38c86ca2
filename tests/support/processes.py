"""Waits for the end of processes."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support.watch import PATIENCE_S

LOOK_INTERVAL_S = 0.02


async def gone(pid: int) -> None:
    """Return when the process has ended, reaped or not. Raises AssertionError if it does not end."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await (_exit_reported(pid) if sys.platform == "linux" else _exit_looked_for(pid))
    except TimeoutError:
        raise AssertionError(f"process {pid} is still there") from None


async def reaped(pid: int) -> None:
    """Return when the process has been reaped. Raises AssertionError if it is not."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _exit_looked_for(pid)
    except TimeoutError:
        raise AssertionError(f"process {pid} is not reaped") from None


def is_there(pid: int) -> bool:
    """Return True if the process exists, even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def with_environment(fragment: str) -> list[int]:
    """Return the processes that have this text in their environment (Linux)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = file.read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if fragment.encode() in content:
            found.append(int(file.parent.name))
    return found


async def _exit_reported(pid: int) -> None:
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
    while is_there(pid):  # noqa: ASYNC110 - only Linux reports the exit of a process that is not a child
        await asyncio.sleep(LOOK_INTERVAL_S)
