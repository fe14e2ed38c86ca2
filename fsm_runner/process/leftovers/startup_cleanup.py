"""Ends what an earlier process of the same runner has left behind, at the start of the next."""

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress

import psutil
from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.tree.freeze import freeze
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.procfs import offers_pidfds
from fsm_runner.process.tree.progress import Progress, named
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of, tag_prefix, tag_prefix_of

STUCK_S = 10.0
"""How long the killed processes may stay the same before the sweep fails: a process that the kernel holds does not end.
"""
PAUSE_S = 0.02

_UNREADABLE = (psutil.Error, OSError)


class ProcessesLeft(FsmRunnerError):
    """Processes of an earlier runner did not end after SIGKILL."""


def sweep(owners: Collection[str], *, stuck_s: float = STUCK_S) -> int:
    """Kills every process that was started by one of these processes of a runner, and all that is below one.

    They are told by `RUNNER_TAG_VARIABLE` in their environment or by their rlimit tag, if this user may read them.
    None of the owners may be alive. Blocks for as long as any of them starts another. Returns how many were killed.
    Raises `ProcessesLeft` when the same ones have been there for `stuck_s`.
    """
    progress = Progress()
    stopped: set[psutil.Process] = set()
    while found := _frozen_and_found(owners):
        # Stopped first, until a look finds no further one: what is stopped starts nothing.
        new = found - stopped
        if not new and progress.is_stuck(frozenset(found), stuck_s):
            raise ProcessesLeft(_still_there(found))
        for process in new or found:
            _send(process, signal.SIGSTOP if new else signal.SIGKILL)
        stopped |= new
        if not new:
            time.sleep(PAUSE_S)
    if stopped:
        logger.info("{} processes that an earlier process of this runner had left behind were ended", len(stopped))
    return len(stopped)


def _frozen_and_found(owners: Collection[str]) -> set[psutil.Process]:
    tag_prefixes = frozenset(map(tag_prefix, owners))
    if offers_pidfds():
        # psutil needs about 0.2 ms for each process, which is time enough to fork. So all are stopped first.
        with suppress(OSError):  # no descriptor left
            for _ in freeze(lambda value: tag_prefix_of(value) in tag_prefixes, _spared_ids(tag_prefixes)):
                pass
    return _left_behind(owners, tag_prefixes)


def _spared_ids(tag_prefixes: Collection[int]) -> set[int]:
    """The ids of those of `_ourselves` that can have such a rlimit tag. Children inherit it from this process."""
    own = psutil.Process()
    value = rlimit_tag_of(own.pid)
    is_inherited = value is not None and tag_prefix_of(value) in tag_prefixes
    return {each.pid for each in (_ourselves() if is_inherited else (own, *own.parents()))}


def _left_behind(owners: Collection[str], tag_prefixes: Collection[int]) -> set[psutil.Process]:
    below: dict[int, list[psutil.Process]] = {}
    found = []
    spared = _ourselves()
    for process in psutil.process_iter():
        if process in spared:
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            below.setdefault(process.ppid(), []).append(process)
            value = rlimit_tag_of(process.pid)
            is_left = value is not None and tag_prefix_of(value) in tag_prefixes
            if is_left or process.environ().get(RUNNER_TAG_VARIABLE) in owners:
                found.append(process)
        except _UNREADABLE:  # it has ended, or is another user's
            continue
    for process in found:
        found += below.pop(process.pid, [])
    return set(found)


def _ourselves() -> set[psutil.Process]:
    """This process, what it has started, and whatever it was started by: a run may have started it."""
    own = psutil.Process()
    return {own, *own.parents(), *own.children(recursive=True)}


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        if hasattr(os, "pidfd_open"):
            _send_by_handle(process, number)
        else:
            process.send_signal(number)  # looks at its start time first
    except _UNREADABLE:  # it has ended, or may not be signalled
        return


def _send_by_handle(process: psutil.Process, number: signal.Signals) -> None:
    """What the handle is of cannot change any more once it is known to be the process that was looked at."""
    handle = os.pidfd_open(process.pid)
    try:
        if process.is_running():
            signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def _still_there(processes: set[psutil.Process]) -> str:
    texts = []
    for process in sorted(processes, key=lambda each: each.pid):
        try:
            texts.append(f"{process.pid} ({process.name()})")
        except _UNREADABLE:
            texts.append(str(process.pid))
    return (
        f"an earlier process of this runner has left processes behind that SIGKILL does not end: {named(texts)}. "
        "Look what holds them (`ps -o pid,stat,wchan,args -p PID`); as a rule a file system that does not answer, or "
        "another user's rights"
    )
