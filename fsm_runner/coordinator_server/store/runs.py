"""Runs in the database, queued and ended ones included."""

import sqlite3
from collections.abc import Collection

import msgspec

from fsm_runner.coordinator_server.errors import NotFound
from fsm_runner.coordinator_server.matching import Capabilities, Demands, meets
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.interface import new_id
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.statuses import HELD_RUN_STATUSES, TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject

HIDDEN_COLUMNS = ("seq", "decision", "decided")
RUN_NOT_FOUND = "Run not found"

# Fixed text, so the statements with it are no injection (S608).
_HELD = ", ".join(f"'{status}'" for status in HELD_RUN_STATUSES)
_TERMINAL = ", ".join(f"'{status}'" for status in sorted(TERMINAL_RUN_STATUSES))

_decode_demands = msgspec.json.Decoder(Demands).decode


class RunRow(msgspec.Struct, frozen=True):
    """The fields of a run that the coordinator itself uses."""

    run_id: str
    session_id: str
    status: str
    runner_id: str | None


class _AgentReference(msgspec.Struct, frozen=True):
    """The fields of a request that identify its agent."""

    type: str
    agent_name: str | None = None


class RunTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, session_id: str, request: JsonObject, demands: Demands) -> RunRow:
        """Queue a run. `request` contains the fields that never change."""
        run = RunRow(new_id("run"), session_id, "pending", None)
        self._database.execute(
            "INSERT INTO runs (run_id, session_id, status, demands, request, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (run.run_id, session_id, run.status, msgspec.json.encode(demands), msgspec.json.encode(request), utc_now()),
        )
        self._record("run_created", run)
        return run

    def claim(self, runner: Capabilities) -> JsonObject | None:
        """Assign the oldest matching pending run to the runner. None: there is none."""
        pending = self._database.execute("SELECT seq, demands FROM runs WHERE status = 'pending' ORDER BY seq")
        seq = next((row["seq"] for row in pending if meets(runner, _decode_demands(row["demands"]))), None)
        pending.close()
        if seq is None:
            return None
        row = self._database.row(
            "UPDATE runs SET status = 'claimed', runner_id = ?, claimed_at = ? WHERE seq = ? RETURNING *",
            (runner.runner_id, utc_now(), seq),
        )
        if row is None:
            return None
        self._record("run_updated", _run_row(row))
        return _run_json(row)

    def reassign(self, runner_id: str, agents: Collection[str]) -> None:
        """Make pending runs of these agents wait for their new owner instead of an earlier one, which is gone."""
        for row in list(self._database.execute("SELECT seq, demands, request FROM runs WHERE status = 'pending'")):
            demands, run = _decode_demands(row["demands"]), msgspec.json.decode(row["request"], type=_AgentReference)
            # A resume waits for its session's executor, whichever runner owns the agent.
            if run.type == "start_session" and run.agent_name in agents and demands.runner_id is not None:
                owned = msgspec.structs.replace(demands, runner_id=runner_id)
                self._database.execute(
                    "UPDATE runs SET demands = ? WHERE seq = ?", (msgspec.json.encode(owned), row["seq"])
                )

    def release(self, run_id: str) -> None:
        """Undo a claim whose response no client receives. The run keeps its place in the queue."""
        self._update(
            "UPDATE runs SET status = 'pending', runner_id = NULL, claimed_at = NULL"
            " WHERE run_id = ? AND status = 'claimed' RETURNING *",
            (run_id,),
        )

    def start(self, run_id: str) -> RunRow:
        """Set the run to running from any status (protocol.md, section 1.1). Raises `NotFound`."""
        return self._updated_run(
            "UPDATE runs SET status = 'running', started_at = ?, completed_at = NULL, error = NULL"
            " WHERE run_id = ? RETURNING *",
            (utc_now(), run_id),
        )

    def end(self, run_id: str, status: str, error: str | None = None) -> RunRow:
        """Raises `NotFound`."""
        return self._updated_run(
            "UPDATE runs SET status = ?, completed_at = ?, error = ? WHERE run_id = ? RETURNING *",
            (status, utc_now(), error, run_id),
        )

    def request_stop(self, run_id: str) -> RunRow:
        """Raises `NotFound`."""
        return self._updated_run("UPDATE runs SET status = 'stopping' WHERE run_id = ? RETURNING *", (run_id,))

    def fail_held_by(self, runner_id: str, error: str) -> list[RunRow]:
        changed = "status = 'failed', completed_at = ?, error = ?"
        statement = f"UPDATE runs SET {changed} WHERE status IN ({_HELD}) AND runner_id = ? RETURNING *"  # noqa: S608
        return self._update(statement, (utc_now(), error, runner_id))

    def stopping_sessions(self, runner_id: str) -> list[str]:
        """Return the sessions whose runs this runner was asked to stop and has not reported as stopped."""
        rows = self._database.execute(
            "SELECT session_id FROM runs WHERE status = 'stopping' AND runner_id = ? ORDER BY seq", (runner_id,)
        )
        return [row["session_id"] for row in rows]

    def row(self, run_id: str) -> RunRow:
        """Raises `NotFound`."""
        return _run_row(self._row(run_id))

    def latest_of(self, session_id: str) -> RunRow | None:
        """Return the session's newest run that has not ended, or else its newest run."""
        row = self._database.row(
            f"SELECT * FROM runs WHERE session_id = ? ORDER BY status IN ({_TERMINAL}), seq DESC LIMIT 1",  # noqa: S608
            (session_id,),
        )
        return None if row is None else _run_row(row)

    def get(self, run_id: str) -> JsonObject:
        """Raises `NotFound`."""
        return _run_json(self._row(run_id))

    def all(self, status: str | None) -> list[JsonObject]:
        """Return the runs, oldest first; with `status`, only those of this status."""
        if status is None:
            rows = self._database.execute("SELECT * FROM runs ORDER BY seq")
        else:
            rows = self._database.execute("SELECT * FROM runs WHERE status = ? ORDER BY seq", (status,))
        return [_run_json(row) for row in rows]

    def _row(self, run_id: str) -> sqlite3.Row:
        row = self._database.row("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        if row is None:
            raise NotFound(RUN_NOT_FOUND)
        return row

    def _updated_run(self, statement: str, values: tuple[object, ...]) -> RunRow:
        updated = self._update(statement, values)
        if not updated:
            raise NotFound(RUN_NOT_FOUND)
        return updated[0]

    def _update(self, statement: str, values: tuple[object, ...]) -> list[RunRow]:
        updated = [_run_row(row) for row in self._database.execute(statement, values).fetchall()]
        for run in updated:
            self._record("run_updated", run)
        return updated

    def _record(self, kind: str, run: RunRow) -> None:
        self._database.record_event(kind, {"run_id": run.run_id, "session_id": run.session_id, "status": run.status})


def _run_row(row: sqlite3.Row) -> RunRow:
    return RunRow(row["run_id"], row["session_id"], row["status"], row["runner_id"])


def _run_json(row: sqlite3.Row) -> JsonObject:
    """Return all fields of protocol.md, section 1.2; those that do not apply are null."""
    run = dict(row)
    for column in HIDDEN_COLUMNS:
        del run[column]
    request, demands = msgspec.json.decode(run.pop("request")), _decode_demands(run.pop("demands"))
    return {**run, **request, "demands": demands.as_json() or None}
