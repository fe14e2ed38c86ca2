"""Runs in the database, queued and ended ones included."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import NotFound
from fsm_runner.coordinator_server.store.interface import RunRow
from fsm_runner.coordinator_server.store.sqlite.classes import ClassTable
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.sql import HELD, OPEN
from fsm_runner.protocol.wire import JsonObject

SHOWN_COLUMNS = (
    *("run_id", "session_id", "status", "runner_id", "attempt", "error"),
    *("created_at", "claimed_at", "started_at", "completed_at"),
)
RUN_NOT_FOUND = "Run not found"


class RunTable:
    def __init__(self, database: Database, classes: ClassTable) -> None:
        self._database = database
        self._classes = classes

    def get(self, run_id: str) -> JsonObject:
        """Raises `NotFound`."""
        return self.json_of(self.found(run_id))

    def row(self, run_id: str) -> RunRow:
        """Raises `NotFound`."""
        return self.row_of(self.found(run_id))

    def found(self, run_id: str) -> sqlite3.Row:
        """Raises `NotFound`."""
        row = self._database.row("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        if row is None:
            raise NotFound(RUN_NOT_FOUND)
        return row

    def latest_of(self, session_id: str) -> RunRow | None:
        """Return the session's newest run that has not ended, or else its newest run that a runner had, or any."""
        for index, condition in (
            ("runs_open", f"AND {OPEN}"),
            ("runs_by_session", "AND runner_id IS NOT NULL"),
            ("runs_by_session", ""),
        ):
            row = self._database.row(
                f"SELECT * FROM runs INDEXED BY {index} WHERE session_id = ? {condition} ORDER BY seq DESC LIMIT 1",  # noqa: S608 - fixed text
                (session_id,),
            )
            if row is not None:
                return self.row_of(row)
        return None

    def holding(self, session_id: str) -> RunRow | None:
        """Return the session's newest run that a runner has, or else the newest that a runner had."""
        for index, condition in (("runs_open", f"{OPEN} AND {HELD}"), ("runs_by_session", "TRUE")):
            row = self._database.row(
                f"SELECT * FROM runs INDEXED BY {index} WHERE session_id = ? AND {condition}"  # noqa: S608 - fixed text
                " AND runner_id IS NOT NULL ORDER BY seq DESC LIMIT 1",
                (session_id,),
            )
            if row is not None:
                return self.row_of(row)
        return None

    def stopping_sessions(self, runner_id: str) -> list[str]:
        """Return the sessions whose runs this runner was asked to stop and has not reported as stopped."""
        rows = self._database.execute(
            "SELECT session_id FROM runs INDEXED BY runs_by_runner WHERE runner_id = ? AND status = 'stopping'"
            " ORDER BY seq",
            (runner_id,),
        )
        return [row["session_id"] for row in rows]

    def held_by(self, runner_id: str) -> list[sqlite3.Row]:
        """Return the runs that the runner has, the oldest first."""
        return self._database.execute(
            f"SELECT * FROM runs INDEXED BY runs_by_runner WHERE runner_id = ? AND {HELD} ORDER BY seq",  # noqa: S608 - fixed text
            (runner_id,),
        ).fetchall()

    def changed(self, statement: str, values: tuple[object, ...]) -> RunRow | None:
        """Execute an UPDATE … RETURNING * of one run, and return the run; None: no run was changed."""
        row = self._database.row(statement, values)
        return None if row is None else self.recorded("run_updated", row)

    def recorded(self, kind: str, row: sqlite3.Row) -> RunRow:
        """Record a change of the run for the event streams, and return the run."""
        run = self.row_of(row)
        self._database.record_event(kind, {"run_id": run.run_id, "session_id": run.session_id, "status": run.status})
        return run

    def row_of(self, row: sqlite3.Row) -> RunRow:
        return RunRow(
            run_id=row["run_id"],
            session_id=row["session_id"],
            status=row["status"],
            runner_id=row["runner_id"],
            limited_agent=self._classes.get(row["class_id"]).limited_agent,
        )

    def json_of(self, row: sqlite3.Row) -> JsonObject:
        """Return all fields of protocol.md, section 1.2; those that do not apply are null."""
        run = {column: row[column] for column in SHOWN_COLUMNS}
        demands = self._classes.get(row["class_id"]).demands
        (request,) = self._database.execute("SELECT body FROM requests WHERE seq = ?", (row["seq"],)).fetchall()
        return {**run, **msgspec.json.decode(request["body"]), "demands": demands.as_json() or None}
