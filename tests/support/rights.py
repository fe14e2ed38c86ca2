"""A runner to which permissions and limits apply, even if the tests run as root."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.home import PROFILE, make_home
from tests.support.program import Program, environment
from tests.support.runner import System

REGISTER = "/runner/register"
OTHER_UID = 1_000_000 + os.getpid()
"""A user that does not exist. If the tests run as root, the runner runs as this user, which may only read files."""
READS_EVERYWHERE = "-all,+dac_read_search"
"""The interpreter may be in a folder that only root can read."""


def runner_uid() -> int:
    return OTHER_UID if os.getuid() == 0 else os.getuid()


def without_rights(*command: str) -> tuple[str, ...]:
    """Return the command line that runs it as a user to whom permissions and limits apply."""
    if os.getuid() != 0:
        return command
    user = (f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups")
    return ("setpriv", *user, f"--inh-caps={READS_EVERYWHERE}", f"--ambient-caps={READS_EVERYWHERE}", *command)


def own_folder(path: Path) -> Path:
    """Create a folder that the runner may write to."""
    path.mkdir()
    if os.getuid() == 0:
        os.chown(path, OTHER_UID, OTHER_UID)
    return path


@contextmanager
def open_place() -> Iterator[Path]:
    """Create a folder that every user may enter, with a home in it."""
    with TemporaryDirectory(prefix="machine-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        make_home(folder / "home")
        yield folder


@asynccontextmanager
async def runner_without_rights(folder: Path, system: System, wrapped_in: Sequence[str] = ()) -> AsyncIterator[Program]:
    """Start a runner with the home in `folder` and the project directory `folder/project`.

    `wrapped_in`: the beginning of its command line.
    """
    places = ("--state-dir", str(own_folder(folder / "state")), "--project-dir", str(own_folder(folder / "project")))
    command = (sys.executable, "-m", "fsm_runner", "-x", PROFILE, "-c", system.proxy.url, *places)
    process = await asyncio.create_subprocess_exec(
        *wrapped_in,
        *without_rights(*command),
        cwd=folder,
        env=environment(folder / "home"),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    runner = Program(process)
    try:
        await system.proxy.answered("POST", REGISTER)
        yield runner
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await runner.listening
