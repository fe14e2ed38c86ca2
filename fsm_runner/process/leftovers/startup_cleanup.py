"""Kills the leftovers of earlier processes of the same runner, when it starts."""

import signal
from collections.abc import Collection, Iterator

from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.leftovers.leftover_killer import LeftoverKiller
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.freeze_and_kill import listed
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.rlimit_tag import tag_prefix

STUCK_S = 10.0
"""The cleanup fails when the same leftovers remain for this time after SIGKILL."""


class LeftoversRemain(FsmRunnerError):
    """Leftovers of an earlier runner process did not end after SIGKILL."""


class _PsutilKiller(LeftoverKiller):
    """For systems without Linux' /proc or pidfds. They have no rlimit tags either."""

    def processes(self) -> Iterator[Process]:
        from fsm_runner.process.tree import psutil_backend

        return psutil_backend.processes()

    def environment(self, pid: int) -> list[bytes]:
        from fsm_runner.process.tree import psutil_backend

        return psutil_backend.environment(pid)

    def send(self, process: Process, number: signal.Signals) -> None:
        from fsm_runner.process.tree import psutil_backend

        psutil_backend.send(process, number)

    def freeze(self, spared: Collection[int]) -> Iterator[None]:
        return iter(())


def kill_leftovers(runner_tags: Collection[str], *, stuck_s: float = STUCK_S) -> int:
    """Kill every process that has one of these runner tags and is readable, and everything below it.

    The runner processes with these tags must have ended. Blocks as long as leftovers start others. Returns how many
    were killed. Raises `LeftoversRemain` if the same ones have remained for `stuck_s`.
    """
    killer_type = LeftoverKiller if procfs.offers_processes() and procfs.offers_pidfds() else _PsutilKiller
    killer = killer_type(
        frozenset(f"{RUNNER_TAG_VARIABLE}={tag}".encode(errors="surrogateescape") for tag in runner_tags),
        frozenset(map(tag_prefix, runner_tags)),
    )
    try:
        count, remaining = killer.kill(stuck_s)
    except OSError as error:
        raise LeftoversRemain(
            f"cannot list the processes that an earlier process of this runner left: {error}"
        ) from error
    if remaining:
        names = [f"{each.pid} ({each.name})" for each in sorted(remaining, key=lambda each: each.pid)]
        raise LeftoversRemain(
            f"SIGKILL does not end processes that an earlier process of this runner left behind: {listed(names)}. "
            "Check what holds them (`ps -o pid,stat,wchan,args -p PID`): usually a file system that does not respond, "
            "or another user's permissions"
        )
    if count:
        logger.info("killed {} processes that an earlier process of this runner left behind", count)
    return count
