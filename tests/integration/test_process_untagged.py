"""Orphans that have cleared their environment, in a program without other children."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.children import HERE

pytestmark = pytest.mark.linux(reason="adoption of orphaned processes")

PREAMBLE = """
import asyncio, os, sys
from pathlib import Path
from fsm_runner.process.tree import subreaper
from fsm_runner.process.tree import procfs
from fsm_runner.process.child.child import Child
from loguru import logger

logger.remove()
assert subreaper.SUBREAPER.enable(exclusive=True)
DAEMON = "env -i setsid /bin/sh -c '/bin/sh -c \\"echo \\\\$\\\\$ >&3; exec sleep 1000\\" &' 3>&1 >/dev/null 2>&1 &"

class Leader:
    # Exits when its input ends.
    def __init__(self, script=""):
        self.output, self.has_pid = b"", asyncio.Event()
        command = ["/bin/sh", "-c", script + "\\nread line"]
        self.child = Child.start(command, env=dict(os.environ), cwd=Path("/"), pipe_stdin=True, on_stdout=self.note)

    def note(self, chunk):
        self.output += chunk
        if b"\\n" in self.output:
            self.has_pid.set()

    async def daemon(self):
        await self.has_pid.wait()
        return int(self.output)

    async def exit(self):
        self.child.stdin.close()
        await self.child.wait()

def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

async def later_than(pid):
    # Wait for the next tick of the kernel's start times.
    while procfs.read_process(pid).started_ticks >= await started_now():
        pass

async def started_now():
    leader = Leader()
    ticks = procfs.read_process(leader.child.pid).started_ticks
    await leader.exit()
    return ticks
"""

ALONE = """
async def main():
    leader = Leader(DAEMON)
    pid = await leader.daemon()
    await leader.exit()
    print(is_there(pid))
"""
BESIDE_AN_OLDER = """
async def main():
    older, leader = Leader(), Leader(DAEMON)
    pid = await leader.daemon()
    await leader.exit()
    print(is_there(pid))
    await older.exit()
    print(is_there(pid))
"""
BESIDE_A_YOUNGER = """
async def main():
    leader = Leader(DAEMON)
    pid = await leader.daemon()
    await later_than(pid)
    younger = Leader()
    await leader.exit()
    print(is_there(pid))
    await younger.exit()
"""
KNOWN = """
async def main():
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)
    subreaper.SUBREAPER.known.add(pid)
    await Leader().exit()
    print(is_there(pid))
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""
OF_OUR_SESSION = """
async def main():
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    await Leader().exit()
    print(is_there(pid))
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


WITHOUT_RLIMIT_TAGS = """
from fsm_runner.process.tree import rlimit_tag
rlimit_tag._LIMIT = None
"""
"""As if a real limit were set."""


def output_of(program: str, *, has_rlimit_tags: bool = True) -> Sequence[str]:
    preamble = PREAMBLE if has_rlimit_tags else PREAMBLE + WITHOUT_RLIMIT_TAGS
    command = [sys.executable, "-W", "error", "-c", f"{preamble}{program}\nasyncio.run(main())"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=HERE)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("program", [ALONE, BESIDE_AN_OLDER, BESIDE_A_YOUNGER], ids=["alone", "older", "younger"])
def test_it_ends_with_the_child_that_started_it(program: str) -> None:
    assert set(output_of(program)) == {"False"}


def test_without_an_rlimit_tag_it_lives_as_long_as_a_child_that_can_have_started_it() -> None:
    assert output_of(ALONE, has_rlimit_tags=False) == ["False"]
    assert output_of(BESIDE_AN_OLDER, has_rlimit_tags=False) == ["True", "False"]


def test_a_child_that_is_younger_cannot_have_started_it() -> None:
    assert output_of(BESIDE_A_YOUNGER, has_rlimit_tags=False) == ["False"]


def test_a_known_process_survives() -> None:
    assert output_of(KNOWN) == ["True"]


def test_a_process_of_the_programs_own_session_survives() -> None:
    assert output_of(OF_OUR_SESSION) == ["True"]
