"""Deletion of sessions that ended long ago."""

from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.sessions import SessionTable
from fsm_runner.coordinator_server.store.sqlite.sql import OPEN, SESSION_ENDED
from fsm_runner.protocol.event_clock import utc_text

_OLDEST = f"""
SELECT session_id FROM sessions INDEXED BY sessions_ended
WHERE {SESSION_ENDED} AND last_run_ended_at <= ?
    AND NOT EXISTS (SELECT 1 FROM runs INDEXED BY runs_open WHERE runs.session_id = sessions.session_id AND runs.{OPEN})
ORDER BY last_run_ended_at LIMIT 1
"""  # noqa: S608 - fixed text


class Retention:
    def __init__(self, database: Database, sessions: SessionTable) -> None:
        self._database = database
        self._sessions = sessions

    def prune(self, keep_s: float, most: int) -> int:
        """Delete about this many rows of sessions that ended long ago. Return the number of deleted rows."""
        deleted, ended_before = 0, utc_text(self._database.now_s() - keep_s)
        while deleted < most:
            row = self._database.row(_OLDEST, (ended_before,))
            if row is None:
                break
            deleted += self._delete_some(row["session_id"], most - deleted)
        return deleted

    def _delete_some(self, session_id: str, most: int) -> int:
        """Delete rows of the session, its events first, and the session itself if nothing else of it would be left."""
        deleted = self._delete_rows("events", session_id, most)
        if deleted == most:
            return deleted
        counted = self._database.row("SELECT count(*) AS runs FROM runs WHERE session_id = ?", (session_id,))
        runs = 0 if counted is None else counted["runs"]
        if runs > most - deleted:
            return deleted + self._delete_rows("runs", session_id, most - deleted)
        self._sessions.remove(session_id, runs)
        return int(deleted + runs + 1)

    def _delete_rows(self, table: str, session_id: str, most: int) -> int:
        return self._database.execute(
            f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE session_id = ? LIMIT ?)",  # noqa: S608 - names are ours
            (session_id, most),
        ).rowcount
