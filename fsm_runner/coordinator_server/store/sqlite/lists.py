"""Lists of runs: pages and filters.

A list reads one index, from the newest run to the oldest, whichever filters there are. Other filters only skip entries.
A transaction reads a limited number of entries, so a page may have fewer runs than its limit, or none.
"""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from heapq import merge
from itertools import islice

from fsm_runner.coordinator_server.store.interface import Listed, Page, RunFilter
from fsm_runner.coordinator_server.store.sqlite.classes import ClassTable
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.runs import RunTable
from fsm_runner.coordinator_server.store.sqlite.sql import BEYOND
from fsm_runner.protocol.statuses import HELD_RUN_STATUSES, OPEN_RUN_STATUSES, TERMINAL_RUN_STATUSES

READ_AT_ONCE = 2_000
"""The most entries that one transaction reads."""
RANGES_AT_ONCE = 200
"""The most ranges of an index that are read together. If a tag has more classes, all runs are read."""

_STATUSES = sorted(OPEN_RUN_STATUSES | TERMINAL_RUN_STATUSES)


class RunLists:
    def __init__(self, database: Database, classes: ClassTable, runs: RunTable) -> None:
        self._database = database
        self._classes = classes
        self._runs = runs

    def page(self, chosen: RunFilter, page: Page) -> Listed:
        """Return runs, newest first. If there may be more, `next` is the number of the last run that was looked at."""
        class_ids = None if chosen.tag is None else frozenset(self._classes.tagged(chosen.tag))
        found: list[int] = []
        read, last = 0, 0
        with ExitStack() as stack:
            for row in islice(self._entries(stack, chosen, class_ids, page.after), READ_AT_ONCE):
                read, last = read + 1, row["seq"]
                if _is_chosen(row, chosen, class_ids):
                    if len(found) == page.limit:
                        return self._listed(found, found[-1])
                    found.append(row["seq"])
        return self._listed(found, last if read == READ_AT_ONCE else None)

    def _listed(self, found: list[int], after: int | None) -> Listed:
        rows = (self._database.row("SELECT * FROM runs WHERE seq = ?", (seq,)) for seq in found)
        return Listed(items=[self._runs.json_of(row) for row in rows if row is not None], next=after)

    def _entries(
        self, stack: ExitStack, chosen: RunFilter, class_ids: Collection[int] | None, after: int | None
    ) -> Iterator[sqlite3.Row]:
        """Return the entries of the index that has the fewest others."""
        below = BEYOND if after is None else after
        oldest = 0 if chosen.created_after is None else self._first_after(chosen.created_after)
        cursors = []
        for index, condition, values in _ranges(chosen, class_ids):
            cursor = self._database.execute(
                "SELECT seq, status, runner_id, agent_name, parent_session_id, class_id, created_at FROM runs"  # noqa: S608 - fixed text
                f" {index} WHERE {condition} AND seq < ? AND seq >= ? ORDER BY seq DESC",
                (*values, below, oldest),
            )
            cursors.append(stack.enter_context(closing(cursor)))
        return merge(*cursors, key=lambda row: -row["seq"])

    def _first_after(self, time: str) -> int:
        """Return a number of which all runs created after this time are at or above, found by bisection."""
        row = self._database.row("SELECT max(seq) AS newest FROM runs")
        low, high = 1, 1 + (0 if row is None or row["newest"] is None else row["newest"])
        while low < high:
            middle = (low + high) // 2
            row = self._database.row("SELECT seq, created_at FROM runs WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,))
            if row is None or row["created_at"] > time:
                high = middle
            else:
                low = row["seq"] + 1
        return low


def _ranges(chosen: RunFilter, class_ids: Collection[int] | None) -> list[tuple[str, str, tuple[object, ...]]]:
    """Return the ranges of an index to read: the index, the condition of the range and its values."""
    if chosen.status in HELD_RUN_STATUSES:
        return [_by_status(chosen.status)]
    if chosen.runner_id is not None:
        statuses = _STATUSES if chosen.status is None else [chosen.status]
        return [
            ("INDEXED BY runs_by_runner", "runner_id = ? AND status = ?", (chosen.runner_id, each)) for each in statuses
        ]
    if chosen.parent_session_id is not None:
        return [("INDEXED BY runs_by_parent", "parent_session_id = ?", (chosen.parent_session_id,))]
    if chosen.agent_name is not None:
        return [("INDEXED BY runs_by_agent", "agent_name = ?", (chosen.agent_name,))]
    if class_ids is not None and len(class_ids) <= RANGES_AT_ONCE:
        return [("INDEXED BY runs_by_class", "class_id = ?", (class_id,)) for class_id in class_ids]
    if chosen.status is not None:
        return [_by_status(chosen.status)]
    return [("NOT INDEXED", "TRUE", ())]


def _by_status(status: str) -> tuple[str, str, tuple[object, ...]]:
    return "INDEXED BY runs_by_status", "status = ?", (status,)


def _is_chosen(row: sqlite3.Row, chosen: RunFilter, class_ids: Collection[int] | None) -> bool:
    compared = ("status", "runner_id", "agent_name", "parent_session_id")
    return (
        all(getattr(chosen, name) in (None, row[name]) for name in compared)
        and (class_ids is None or row["class_id"] in class_ids)
        and (chosen.created_after is None or row["created_at"] > chosen.created_after)
    )
