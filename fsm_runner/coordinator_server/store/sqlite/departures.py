"""Runners that have left: their runs fail or are queued again."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.store.interface import Closed
from fsm_runner.coordinator_server.store.sqlite.classes import ClassTable
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.reports import Reports
from fsm_runner.coordinator_server.store.sqlite.runs import RunTable
from fsm_runner.coordinator_server.store.sqlite.sessions import SessionTable
from fsm_runner.coordinator_server.store.sqlite.sql import HELD

_REQUEUED = (
    "status = 'pending', runner_id = NULL, attempt = attempt + 1, expires_s = NULL,"
    " claimed_at = NULL, started_at = NULL, decision = NULL, decided = NULL"
)


class Departures:
    def __init__(
        self, database: Database, classes: ClassTable, runs: RunTable, sessions: SessionTable, reports: Reports
    ) -> None:
        self._database = database
        self._classes = classes
        self._runs = runs
        self._sessions = sessions
        self._reports = reports

    def close(self, runner_id: str, reason: str, *, may_requeue: bool) -> Closed:
        """End the open runs of a runner that has left, or queue them again, and finish its idle sessions."""
        requeued_sessions, limited_agents = [], set()
        for row in self._runs.held_by(runner_id):
            agent = self._classes.get(row["class_id"]).limited_agent
            if agent is not None:
                limited_agents.add(agent)
            if may_requeue and self._may_be_queued_again(row):
                self._requeue(row)
                requeued_sessions.append(row["session_id"])
            else:
                self._fail(row, reason)
        self._sessions.finish_idle_of(runner_id)
        return Closed(
            requeued_sessions=requeued_sessions,
            limited_agents=frozenset(limited_agents),
            has_unpinned=self._unpin(runner_id),
        )

    def holders(self) -> list[str]:
        """Return the runners for which `close` would change something."""
        rows = self._database.execute(
            f"SELECT runner_id FROM runs INDEXED BY runs_by_status WHERE {HELD} UNION"  # noqa: S608 - fixed text
            " SELECT (SELECT runner_id FROM runs INDEXED BY runs_by_session WHERE runs.session_id = sessions.session_id"
            " AND runner_id IS NOT NULL ORDER BY seq DESC LIMIT 1)"
            " FROM sessions INDEXED BY sessions_idle WHERE status = 'idle' UNION"
            " SELECT json_extract(CAST(definition AS TEXT), '$.demands.runner_id')"
            " FROM classes INDEXED BY classes_open WHERE ready + claimed + running > 0"
        )
        return [row["runner_id"] for row in rows if row["runner_id"] is not None]

    def _may_be_queued_again(self, row: sqlite3.Row) -> bool:
        if not row["is_fenced"] or row["status"] == "stopping" or row["attempt"] > row["retry_lost"]:
            return False
        return self._classes.get(row["class_id"]).demands.runner_id is None

    def _requeue(self, row: sqlite3.Row) -> None:
        self._runs.changed(f"UPDATE runs SET {_REQUEUED} WHERE seq = ? RETURNING *", (row["seq"],))  # noqa: S608 - fixed text
        self._sessions.update(row["session_id"], status="pending", limit=None, workflow=None)

    def _unpin(self, runner_id: str) -> bool:
        """Let other runners claim the pending runs that only this one could. Return whether there are such runs.

        They resume sessions whose executors the runner had.
        """
        has_unpinned = False
        for class_id, pinned in self._classes.pinned_to(runner_id).items():
            pending = "runs INDEXED BY runs_by_class {} WHERE class_id = ? AND status = 'pending'"
            if self._database.row(f"SELECT 1 FROM {pending.format('')} LIMIT 1", (class_id,)) is None:  # noqa: S608 - fixed text
                continue
            demands = msgspec.structs.replace(pinned.demands, runner_id=None)
            free_id = self._classes.id_of(msgspec.structs.replace(pinned, demands=demands))
            self._database.execute(f"UPDATE {pending.format('SET class_id = ?')}", (free_id, class_id))
            has_unpinned = True
        return has_unpinned

    def _fail(self, row: sqlite3.Row, reason: str) -> None:
        failed = self._runs.changed(
            "UPDATE runs SET status = 'failed', completed_at = ?, error = ?, is_lost = 1 WHERE seq = ? RETURNING *",
            (self._database.utc_now(), reason, row["seq"]),
        )
        if failed is not None:
            self._reports.end_turn(failed, "failed", error=reason)
