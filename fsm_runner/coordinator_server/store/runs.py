"""Runs in the database: the queue, and what became of each."""

import sqlite3
from collections.abc import Collection

import msgspec

from fsm_runner.coordinator_server.errors import run_not_found
from fsm_runner.coordinator_server.store.change_events import ChangeEvents
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.ids import new_run_id, utc_now
from fsm_runner.coordinator_server.store.matching import Capabilities, Demands, meets
from fsm_runner.protocol.statuses import HELD_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject

_decode_demands = msgspec.json.Decoder(Demands).decode


class RunRow(msgspec.Struct, frozen=True):
    """What the coordinator itself has to know of a run."""

    run_id: str
    session_id: str
    status: str
    runner_id: str | None


class _OfAgent(msgspec.Struct, frozen=True):
    """As much of a request as tells whose it is."""

    type: str
    agent_name: str | None = None


class RunTable:
    def __init__(self, database: Database, notices: ChangeEvents) -> None:
        self._database = database
        self._notices = notices

    def add(self, session_id: str, request: JsonObject, demands: Demands) -> RunRow:
        """Queue a run. `request` holds the fields that never change."""
        run = RunRow(new_run_id(), session_id, "pending", None)
        self._database.execute(
            "INSERT INTO runs (run_id, session_id, status, demands, request, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                run.run_id,
                session_id,
                run.status,
                msgspec.json.encode(demands),
                msgspec.json.encode(request),
                utc_now(),
            ),
        )
        self._tell("run_created", run)
        return run

    def claim(self, runner: Capabilities) -> JsonObject | None:
        """The oldest pending run that the runner may take is now its own; None where there is none."""
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
        self._tell("run_updated", _brief(row))
        return _shown(row)

    def hand_over(self, runner_id: str, agents: Collection[str]) -> None:
        """The runner owns these agents now: their runs that wait for an earlier owner, who is gone, are for it."""
        for row in list(self._database.execute("SELECT seq, demands, request FROM runs WHERE status = 'pending'")):
            demands, run = _decode_demands(row["demands"]), msgspec.json.decode(row["request"], type=_OfAgent)
            # A resume waits for the executor that has its session, whoever owns the agent.
            if run.type == "start_session" and run.agent_name in agents and demands.runner_id is not None:
                owned = msgspec.structs.replace(demands, runner_id=runner_id)
                self._database.execute(
                    "UPDATE runs SET demands = ? WHERE seq = ?", (msgspec.json.encode(owned), row["seq"])
                )

    def release(self, run_id: str) -> None:
        """Undo a claim whose answer nobody receives; the run keeps its place in the queue."""
        self._update(
            "UPDATE runs SET status = 'pending', runner_id = NULL, claimed_at = NULL"
            " WHERE run_id = ? AND status = 'claimed' RETURNING *",
            (run_id,),
        )

    def start(self, run_id: str) -> RunRow:
        """Whatever it was before: there is no state machine here. Raises a 404 Refusal."""
        return self._updated_run(
            "UPDATE runs SET status = 'running', started_at = ?, completed_at = NULL, error = NULL"
            " WHERE run_id = ? RETURNING *",
            (utc_now(), run_id),
        )

    def end(self, run_id: str, status: str, error: str | None = None) -> RunRow:
        """Raises a 404 Refusal."""
        return self._updated_run(
            "UPDATE runs SET status = ?, completed_at = ?, error = ? WHERE run_id = ? RETURNING *",
            (status, utc_now(), error, run_id),
        )

    def ask_to_stop(self, run_id: str) -> RunRow:
        """Raises a 404 Refusal."""
        return self._updated_run("UPDATE runs SET status = 'stopping' WHERE run_id = ? RETURNING *", (run_id,))

    def fail_open_of(self, runner_id: str, error: str) -> list[RunRow]:
        """The runs that this runner holds have failed."""
        return self._update(
            "UPDATE runs SET status = 'failed', completed_at = ?, error = ?"
            " WHERE status IN (?, ?, ?) AND runner_id = ? RETURNING *",
            (utc_now(), error, *HELD_RUN_STATUSES, runner_id),
        )

    def stopping_of(self, runner_id: str) -> list[str]:
        """The sessions of the runs that this runner was asked to stop and has not reported as stopped."""
        rows = self._database.execute(
            "SELECT session_id FROM runs WHERE status = 'stopping' AND runner_id = ? ORDER BY seq", (runner_id,)
        )
        return [row["session_id"] for row in rows]

    def find(self, run_id: str) -> RunRow:
        """Raises a 404 Refusal."""
        row = self._database.row("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        if row is None:
            raise run_not_found()
        return _brief(row)

    def last_of(self, session_id: str) -> RunRow | None:
        """The newest run of the session that is not over, else the newest one."""
        row = self._database.row(
            "SELECT * FROM runs WHERE session_id = ?"
            " ORDER BY status IN ('completed', 'failed', 'stopped'), seq DESC LIMIT 1",
            (session_id,),
        )
        return None if row is None else _brief(row)

    def get(self, run_id: str) -> JsonObject:
        """Raises a 404 Refusal."""
        row = self._database.row("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        if row is None:
            raise run_not_found()
        return _shown(row)

    def all(self, status: str | None) -> list[JsonObject]:
        """Oldest first; of this status, where one is given."""
        if status is None:
            rows = self._database.execute("SELECT * FROM runs ORDER BY seq")
        else:
            rows = self._database.execute("SELECT * FROM runs WHERE status = ? ORDER BY seq", (status,))
        return [_shown(row) for row in rows]

    def _updated_run(self, statement: str, values: tuple[object, ...]) -> RunRow:
        updated = self._update(statement, values)
        if not updated:
            raise run_not_found()
        return updated[0]

    def _update(self, statement: str, values: tuple[object, ...]) -> list[RunRow]:
        updated = [_brief(row) for row in self._database.execute(statement, values).fetchall()]
        for run in updated:
            self._tell("run_updated", run)
        return updated

    def _tell(self, kind: str, run: RunRow) -> None:
        self._notices.add(kind, {"run_id": run.run_id, "session_id": run.session_id, "status": run.status})


def _brief(row: sqlite3.Row) -> RunRow:
    return RunRow(row["run_id"], row["session_id"], row["status"], row["runner_id"])


def _shown(row: sqlite3.Row) -> JsonObject:
    """A run as protocol.md, section 1.2, has it: every field, null where it does not apply."""
    return {
        "run_id": row["run_id"],
        "session_id": row["session_id"],
        **msgspec.json.decode(row["request"]),
        "demands": _decode_demands(row["demands"]).shown() or None,
        "status": row["status"],
        "runner_id": row["runner_id"],
        "error": row["error"],
        "created_at": row["created_at"],
        "claimed_at": row["claimed_at"],
        "started_at": row["started_at"],
        "completed_at": row["completed_at"],
    }
