"""Sessions in the database."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import Conflict, NotFound
from fsm_runner.coordinator_server.store.interface import LIST_LIMIT, Listed, NewSession, Page
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.sql import BEYOND, BUSY, OPEN
from fsm_runner.protocol.statuses import LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import JsonObject

COLUMNS = {"limit": "provider_limit"}
"""The columns of fields whose names are keywords of SQL."""
OPTIONAL_FIELDS = {"limit": "provider_limit", "workflow": "workflow"}
"""The columns with JSON of the fields that a session has only if they are set."""
HIDDEN_COLUMNS = ("seq", "last_run_ended_at", *OPTIONAL_FIELDS.values())
SESSION_NOT_FOUND = "Session not found"

_IS_BUSY = (
    "EXISTS (SELECT 1 FROM runs INDEXED BY runs_open"  # noqa: S608 - fixed text
    f" WHERE runs.session_id = sessions.session_id AND runs.{OPEN} AND runs.{BUSY})"
)


class SessionTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, session_id: str) -> JsonObject:
        """Raises `NotFound`."""
        row = self._database.row("SELECT * FROM sessions WHERE session_id = ?", (session_id,))
        if row is None:
            raise NotFound(SESSION_NOT_FOUND)
        return _session_json(row)

    def status(self, session_id: str) -> str:
        """Return `not_existent` if there is no such session."""
        row = self._database.row("SELECT status FROM sessions WHERE session_id = ?", (session_id,))
        return "not_existent" if row is None else str(row["status"])

    def listed(self, page: Page | None, session_id: str | None) -> Listed:
        """Return a page of the sessions, or the newest ones; newest first."""
        condition, values = ("TRUE", ()) if session_id is None else ("session_id = ?", (session_id,))
        limit = LIST_LIMIT if page is None else page.limit
        below = BEYOND if page is None or page.after is None else page.after
        rows = self._database.execute(
            f"SELECT * FROM sessions WHERE {condition} AND seq < ? ORDER BY seq DESC LIMIT ?",  # noqa: S608 - fixed text
            (*values, below, limit + 1),
        ).fetchall()
        items, has_more = [_session_json(row) for row in rows[:limit]], len(rows) > limit
        if page is None:
            return Listed(items=items, is_truncated=has_more)
        return Listed(items=items, next=rows[limit - 1]["seq"] if has_more else None)

    def create(self, session: NewSession) -> None:
        """Raises `Conflict` if the id is taken."""
        values = {"status": "pending", "created_at": self._database.utc_now(), **msgspec.structs.asdict(session)}
        try:
            (row,) = self._database.execute(
                f"INSERT INTO sessions ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) RETURNING *",  # noqa: S608 - column names are ours
                tuple(values.values()),
            ).fetchall()
        except sqlite3.IntegrityError:
            raise Conflict(f"Session '{session.session_id}' already exists") from None
        self._record("session_created", row)

    def update(self, session_id: str, **fields: str | bytes | None) -> JsonObject:
        """Set these fields, if any, and return the session. Raises `NotFound`."""
        if not fields:
            return self.get(session_id)
        settings = ", ".join(f"{COLUMNS.get(name, name)} = ?" for name in fields)
        row = self._database.row(
            f"UPDATE sessions SET {settings} WHERE session_id = ? RETURNING *",  # noqa: S608 - column names are ours
            (*fields.values(), session_id),
        )
        if row is None:
            raise NotFound(SESSION_NOT_FOUND)
        return self._record("session_updated", row)

    def end_turn(self, session_id: str, status: str) -> None:
        """Set the status at the end of a run, unless another run has the session's executor.

        A run that was refused because the session is busy ends no turn of it.
        """
        row = self._database.row(
            f"UPDATE sessions SET status = CASE WHEN {_IS_BUSY} THEN 'running' ELSE ? END,"  # noqa: S608 - fixed text
            f" workflow = CASE WHEN {_IS_BUSY} THEN workflow END, last_run_ended_at = ? WHERE session_id = ?"
            " RETURNING *",
            (status, self._database.utc_now(), session_id),
        )
        if row is not None:
            self._record("session_updated", row)

    def end_unclaimed(self, session_id: str, status: str) -> None:
        """Set the status at the end of a run that no runner had, unless the session has had another run before."""
        row = self._database.row(
            "UPDATE sessions SET status = CASE WHEN status <> 'pending' AND EXISTS"
            " (SELECT 1 FROM runs INDEXED BY runs_by_session WHERE runs.session_id = sessions.session_id"
            " AND runner_id IS NOT NULL) THEN status ELSE ? END, last_run_ended_at = ? WHERE session_id = ?"
            " RETURNING *",
            (status, self._database.utc_now(), session_id),
        )
        if row is not None:
            self._record("session_updated", row)

    def finish_idle_of(self, runner_id: str) -> None:
        """Finish the idle sessions whose last claimed run was on this runner."""
        rows = self._database.execute(
            "UPDATE sessions INDEXED BY sessions_idle SET status = 'finished' WHERE status = 'idle' AND ? ="
            " (SELECT runner_id FROM runs INDEXED BY runs_by_session WHERE runs.session_id = sessions.session_id"
            " AND runner_id IS NOT NULL ORDER BY seq DESC LIMIT 1) RETURNING *",
            (runner_id,),
        ).fetchall()
        for row in rows:
            self._record("session_updated", row)

    def delete(self, session_id: str) -> JsonObject:
        """Delete the session and return the numbers of its runs and events. Raises `NotFound`, `Conflict`."""
        status = self.get(session_id)["status"]
        if status in LIVE_SESSION_STATUSES:
            raise Conflict(f"Session is {status} and cannot be deleted; stop it first")
        counted = self._database.execute(
            "SELECT (SELECT count(*) FROM runs WHERE session_id = ?) AS runs_count,"
            " (SELECT count(*) FROM events WHERE session_id = ?) AS events_count",
            (session_id, session_id),
        )
        counts = dict(counted.fetchone())
        self.remove(session_id, counts["runs_count"])
        return counts

    def remove(self, session_id: str, runs_count: int) -> None:
        """Delete the session with its runs and events."""
        self._database.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
        self._database.record_event("session_deleted", {"session_id": session_id, "runs_deleted": runs_count})

    def _record(self, kind: str, row: sqlite3.Row) -> JsonObject:
        """Record a change of the session, and return the session."""
        session = _session_json(row)
        self._database.record_event(kind, {"session_id": session["session_id"], "session": session})
        return session


def _session_json(row: sqlite3.Row) -> JsonObject:
    """Return the session. A deployed coordinator knows no `OPTIONAL_FIELDS`, so only set ones are included."""
    session = {column: row[column] for column in row.keys() if column not in HIDDEN_COLUMNS}  # noqa: SIM118 - a Row iterates values
    optional = {name: msgspec.Raw(row[column]) for name, column in OPTIONAL_FIELDS.items() if row[column] is not None}
    return {**session, **optional}
