"""Deletes records of ended runs and sessions that exceed the retention limits."""

import sqlite3

from fsm_runner.journal.limits import PRUNED_SUBJECTS, VACUUMED_PAGES, RetentionLimits
from fsm_runner.journal.records import utc_text
from fsm_runner.journal.schema import RUNNER_TRANSITIONS, transaction

_EVER = "9"
"""A text that sorts after every time in the journal."""

# Open runs and sessions have no `ended_at`, so no comparison selects them.
_ENDED = "WHERE ended_at <= :before ORDER BY ended_at, seq LIMIT :most"
_DELETIONS = (
    f"DELETE FROM transitions WHERE machine IN ('run', 'workflow') AND subject IN (SELECT run_id FROM runs {_ENDED})",  # noqa: S608 - our own text
    f"DELETE FROM workflow_visits WHERE run_id IN (SELECT run_id FROM runs {_ENDED})",  # noqa: S608 - our own text
    f"DELETE FROM workflows WHERE run_id IN (SELECT run_id FROM runs {_ENDED})",  # noqa: S608 - our own text
    f"DELETE FROM runs WHERE seq IN (SELECT seq FROM runs {_ENDED})",  # noqa: S608 - our own text
    f"DELETE FROM transitions WHERE machine = 'session' AND subject IN (SELECT session_id FROM sessions {_ENDED})",  # noqa: S608 - our own text
    f"DELETE FROM sessions WHERE seq IN (SELECT seq FROM sessions {_ENDED})",  # noqa: S608 - our own text
    # A tree is deleted as a whole, after the last change of any of its sessions.
    """
    DELETE FROM tree_sessions WHERE session_id IN (
        SELECT session_id FROM tree_sessions AS old WHERE changed_at <= :before
        AND NOT EXISTS (
            SELECT 1 FROM tree_sessions AS newer
            WHERE newer.root_session_id = old.root_session_id AND newer.changed_at > :before)
        AND NOT EXISTS (
            SELECT 1 FROM runs JOIN tree_sessions AS busy ON busy.session_id = runs.session_id
            WHERE runs.ended_at IS NULL AND busy.root_session_id = old.root_session_id)
        AND NOT EXISTS (
            SELECT 1 FROM sessions JOIN tree_sessions AS alive ON alive.session_id = sessions.session_id
            WHERE sessions.ended_at IS NULL AND alive.root_session_id = old.root_session_id)
        ORDER BY changed_at LIMIT :most)
    """,
    f"""
    DELETE FROM transitions WHERE seq IN (
        SELECT seq FROM transitions WHERE {RUNNER_TRANSITIONS} AND at <= :before
        ORDER BY at LIMIT :most)
    """,  # noqa: S608 - our own text
)
_OLDEST = f"""
SELECT at FROM (
    SELECT ended_at AS at FROM runs WHERE ended_at IS NOT NULL
    UNION ALL SELECT ended_at FROM sessions WHERE ended_at IS NOT NULL
    UNION ALL SELECT at FROM transitions WHERE {RUNNER_TRANSITIONS}
) ORDER BY at LIMIT 1 OFFSET ?
"""  # noqa: S608 - our own text
_OWNERLESS = (
    """
    DELETE FROM transitions WHERE at < ? AND (
        (machine IN ('run', 'workflow') AND NOT EXISTS (SELECT 1 FROM runs WHERE run_id = subject))
        OR (machine = 'session' AND NOT EXISTS (SELECT 1 FROM sessions WHERE session_id = subject))
    )
    """,
    "DELETE FROM reruns WHERE planned_at < ?",
)


class Pruner:
    """Deletes records a chunk at a time, in the thread of its connection."""

    def __init__(self, connection: sqlite3.Connection, limits: RetentionLimits) -> None:
        self._connection = connection
        self._limits = limits

    def drop_ownerless(self) -> None:
        """Delete old records of runs and sessions that were never claimed or started; nothing else deletes them."""
        for deletion in _OWNERLESS:
            self._connection.execute(deletion, (utc_text(self._limits.age_s),))

    def step(self) -> bool:
        """Delete one chunk and free its pages; return True if there is more. Raises sqlite3.Error."""
        deleted = self._delete_before(max(utc_text(self._limits.age_s), self._too_much_before()))
        # `execute` would stop after the first page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUMED_PAGES})")
        if deleted > 0 or self._pragma("freelist_count") > 0:
            return True
        # This shortens the file.
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return False

    def _too_much_before(self) -> str:
        used_pages = self._pragma("page_count") - self._pragma("freelist_count")
        if used_pages * self._pragma("page_size") <= self._limits.size_bytes:
            return ""
        row = self._connection.execute(_OLDEST, (PRUNED_SUBJECTS,)).fetchone()
        return _EVER if row is None else row[0]

    def _delete_before(self, before: str) -> int:
        """Return the number of deleted rows."""
        values = {"before": before, "most": PRUNED_SUBJECTS}
        with transaction(self._connection):
            return sum(self._connection.execute(deletion, values).rowcount for deletion in _DELETIONS)

    def _pragma(self, name: str) -> int:
        value: int = self._connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value
