"""Kills the processes that have the tags of ended runner processes.

The watchdog's bare interpreter imports this module, so it uses only small modules of the standard library.
"""

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from types import ModuleType

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.freeze_and_kill import KillLoop, freeze
from fsm_runner.process.tree.procfs import Process, with_descendants
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of, tag_prefix_of


class LeftoverKiller:
    """Finds leftovers by their tags, and everything below them. Spares this process, its ancestors and descendants.

    A runner may itself be part of an earlier run, so its ancestors may have such a tag.
    """

    def __init__(self, entries: Collection[bytes], tag_prefixes: Collection[int], table: ModuleType = procfs) -> None:
        """`entries`: `NAME=value` of the environment tags. `tag_prefixes`: those of the rlimit tags. `table`: `procfs`,
        or `psutil_backend` on systems without pidfds."""
        self._table = table
        self._entries = entries
        self._tag_prefixes = tag_prefixes
        self._kills = KillLoop(self._send)

    def kill(self, stuck_s: float) -> tuple[int, list[Process]]:
        """Block until no leftover exists, or the same ones have remained for `stuck_s`.

        Returns how many were found, and those that remain. Raises OSError if processes cannot be listed.
        """
        for pause_s in self._kills.steps(self._search, stuck_s):
            if pause_s:
                time.sleep(pause_s)
        return len(self._kills.stopped), list(self._kills.found.values())

    def _search(self) -> Iterator[float]:
        if self._table is procfs:
            spared = _relatives(list(procfs.processes()))
            for _ in freeze(lambda value: tag_prefix_of(value) in self._tag_prefixes, spared):
                pass
        table: list[Process] = [process for process in self._table.processes() if not process.has_ended]
        spared = _relatives(table)
        others = [process for process in table if process.pid not in spared]
        found = with_descendants([process for process in others if self._is_tagged(process)], others)
        self._kills.found = {process.identity: process for process in found}
        for process in found:
            self._kills.stop(process)
        yield 0.0

    def _is_tagged(self, process: Process) -> bool:
        value = rlimit_tag_of(process.pid)
        if value is not None and tag_prefix_of(value) in self._tag_prefixes:
            return True
        return any(entry in self._entries for entry in self._table.environment(process.pid))

    def _send(self, process: Process, number: signal.Signals) -> None:
        with suppress(OSError):  # it is another user's, or no descriptor is left
            self._table.send(process, number)


def _relatives(table: list[Process]) -> set[int]:
    """The ids of this process, its ancestors and its descendants."""
    by_pid = {process.pid: process for process in table}
    spared, pid = set(), os.getpid()
    own = by_pid.get(pid)
    while pid in by_pid and pid not in spared:
        spared.add(pid)
        pid = by_pid[pid].parent
    return spared | {process.pid for process in with_descendants([own] if own else [], table)}
