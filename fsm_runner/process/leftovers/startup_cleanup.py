"""Kills the leftovers of earlier processes of the same runner, when it starts."""

from collections.abc import Collection
from types import ModuleType

from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.leftovers.leftover_killer import LeftoverKiller
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.freeze_and_kill import listed
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.rlimit_tag import tag_prefix

STUCK_S = 10.0
"""The cleanup fails when the same leftovers remain for this time after SIGKILL."""


class LeftoversRemain(FsmRunnerError):
    """Leftovers of an earlier runner process did not end after SIGKILL."""


def kill_leftovers(runner_tags: Collection[str], *, stuck_s: float = STUCK_S) -> int:
    """Kill every process that has one of these runner tags and is readable, and everything below it.

    The runner processes with these tags must have ended. Blocks as long as leftovers start others. Returns how many
    were killed. Raises `LeftoversRemain` if the same ones have remained for `stuck_s`.
    """
    table: ModuleType = procfs
    if not (procfs.offers_processes() and procfs.offers_pidfds()):
        from fsm_runner.process.tree import psutil_backend as table  # psutil takes long to import
    entries = frozenset(f"{RUNNER_TAG_VARIABLE}={tag}".encode(errors="surrogateescape") for tag in runner_tags)
    killer = LeftoverKiller(entries, frozenset(map(tag_prefix, runner_tags)), table)
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
