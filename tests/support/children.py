"""What the tests of child processes share."""

import asyncio
import os
from pathlib import Path

from fsm_runner.process.child import Child, Exit

ENV = {"PATH": os.environ["PATH"]}
HERE = Path.cwd()
PATIENCE_S = 20.0
"""For what should come at once, on a machine that has other things to do."""


def start_shell(script: str, *arguments: str) -> Child:
    return Child.start(["/bin/sh", "-c", script, "sh", *arguments], env=ENV, cwd=HERE)


async def exit_of(child: Child) -> Exit:
    return await asyncio.wait_for(child.wait(), PATIENCE_S)


def is_reaped(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())
