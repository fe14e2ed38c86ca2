"""A runner for whom permissions and limits hold, also where the tests have the rights of root."""

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
"""Of nobody. Where the tests have root's rights, the runner has not: it is this user's, and may read files alone."""
READS_EVERYWHERE = "-all,+dac_read_search"
"""An interpreter may lie where nobody but root can look."""


def runner_uid() -> int:
    return OTHER_UID if os.getuid() == 0 else os.getuid()


def without_rights(*command: str) -> tuple[str, ...]:
    """The command line that does it as a user for whom permissions and limits hold."""
    if os.getuid() != 0:
        return command
    user = (f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups")
    return ("setpriv", *user, f"--inh-caps={READS_EVERYWHERE}", f"--ambient-caps={READS_EVERYWHERE}", *command)


def own_folder(path: Path) -> Path:
    """One that the runner may write to."""
    path.mkdir()
    if os.getuid() == 0:
        os.chown(path, OTHER_UID, OTHER_UID)
    return path


@contextmanager
def open_place() -> Iterator[Path]:
    """A folder that every user may enter, with a home."""
    with TemporaryDirectory(prefix="machine-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        make_home(folder / "home")
        yield folder


@asynccontextmanager
async def runner_without_rights(folder: Path, system: System, wrapped_in: Sequence[str] = ()) -> AsyncIterator[Program]:
    """Of the home in `folder`; runs work in `folder/project`. `wrapped_in`: the beginning of its command line."""
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
