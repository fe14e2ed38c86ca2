"""Processes that start others as fast as they can, up to a limit."""

import asyncio
import sys
from collections.abc import Iterator

import pytest

from fsm_runner.process.child.child import Child
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.limits.limits import ResourceLimits
from tests.support.children import ENV, HERE, OWN_TREE_TAGS, exit_of, subreaper_enabled
from tests.support.processes import with_environment
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.linux(reason="adoption of orphaned processes")

LIMIT = 200

BOMB = """
import os, resource, sys, time

ends_at = time.monotonic() + 30  # a guard
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # so that hundreds of them do not block the machine
limit, setsid = int(sys.argv[1]), sys.argv[2] == "sessions"
if os.getuid() == 0:  # for whom the limit does not count
    user = 50_000 + os.getpid() % 10_000
    os.setgid(user)
    os.setuid(user)
else:
    limit += sum(1 for pid in os.listdir("/proc") if pid.isdigit() and os.stat(f"/proc/{pid}").st_uid == os.getuid())
resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
is_reported = False
while time.monotonic() < ends_at:
    try:
        if os.fork() == 0 and setsid:
            os.setsid()
    except BlockingIOError:
        if not is_reported:
            is_reported = True
            os.write(1, b"full\\n")
"""


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    with subreaper_enabled(exclusive=False):
        yield


@pytest.mark.parametrize("spread", ["group", "sessions"])
async def test_a_stop_kills_all_processes(spread: str) -> None:
    full = asyncio.Event()
    command = [sys.executable, "-c", BOMB, str(LIMIT), spread]
    child = Child.start(command, env=ENV, cwd=HERE, on_stdout=lambda _: full.set())
    try:
        await asyncio.wait_for(full.wait(), PATIENCE_S)
        assert len(with_environment(OWN_TREE_TAGS)) > LIMIT / 4
        async with asyncio.timeout(PATIENCE_S):
            await child.stop(term_grace_s=0)
    finally:
        child.close()
    assert with_environment(OWN_TREE_TAGS) == []


@pytest.mark.parametrize("spread", ["group", "sessions"])
async def test_a_process_limit_kills_all_processes(spread: str) -> None:
    """The limit is far below those of the system."""
    command = [sys.executable, "-c", BOMB, str(LIMIT), spread]
    child = Child.start(command, env=ENV, cwd=HERE, launch_policy=LaunchPolicy(ResourceLimits(processes=20)))
    try:
        ended = await exit_of(child)
    finally:
        child.close()
    assert (ended.exceeded or "").startswith("process limit of 20 exceeded (")
    assert with_environment(OWN_TREE_TAGS) == []
