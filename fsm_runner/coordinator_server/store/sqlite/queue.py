"""The queue: pending runs, and their claims.

A runner may claim the runs of some classes. The index `runs_ready` has the pending runs of each class in their order,
so a claim reads one entry for each class.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from fsm_runner.coordinator_server.errors import Conflict
from fsm_runner.coordinator_server.store.interface import (
    ClaimedRun,
    CreatedRun,
    DemandClass,
    NewRun,
    NewSession,
    QueueOptions,
    RunRow,
    new_id,
)
from fsm_runner.coordinator_server.store.sqlite.classes import ClassTable
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.runs import RunTable
from fsm_runner.coordinator_server.store.sqlite.sessions import SessionTable
from fsm_runner.coordinator_server.store.sqlite.sql import READY

PRIORITY_STEP_MS = 60_000
"""The waiting time that a step of priority is worth."""

_CLAIM = f"""
UPDATE runs SET status = 'claimed', runner_id = ?, is_fenced = ?, is_told = 0, claimed_at = ?
WHERE seq = (
    SELECT first.seq
    FROM classes JOIN runs AS first ON first.seq = (
        SELECT seq FROM runs INDEXED BY runs_ready
        WHERE class_id = classes.class_id AND {READY} AND (expires_s IS NULL OR expires_s > ?)
        ORDER BY rank, seq LIMIT 1
    )
    WHERE classes.class_id IN (SELECT value FROM json_each(?)) AND classes.ready > 0
        AND (limited_agent IS NULL OR limited_agent NOT IN (SELECT value FROM json_each(?)))
    ORDER BY first.rank, first.seq LIMIT 1
)
RETURNING *
"""  # noqa: S608 - fixed text


class _TimeToLive(msgspec.Struct, frozen=True):
    """The field of a request that says how long the run may wait."""

    queue_ttl_seconds: float


_decode_ttl = msgspec.json.Decoder(_TimeToLive).decode


class Queue:
    def __init__(self, database: Database, classes: ClassTable, runs: RunTable, sessions: SessionTable) -> None:
        self._database = database
        self._classes = classes
        self._runs = runs
        self._sessions = sessions

    def add(self, new: NewRun) -> CreatedRun:
        """Queue a run. Raises `Conflict` and `NotFound`."""
        options = new.options
        if options.idempotency_key is not None:
            repeated = self.repeated(options.idempotency_key, new.digest)
            if repeated is not None:
                return repeated
        session_id = self._session_of(new)
        now_s = self._database.now_s()
        waits_until_s, expires_s = _times(options, now_s)
        run = RunRow(run_id=new_id("run"), session_id=session_id, status="pending", runner_id=None)
        # A rollback makes the id of a new class free again, so nothing that stays in memory may have it yet.
        class_id = self._classes.id_of(new.demand_class)
        values = {
            "run_id": run.run_id,
            "session_id": session_id,
            "class_id": class_id,
            "rank": round(now_s * 1000) - (options.priority or 0) * PRIORITY_STEP_MS,
            "agent_name": new.request.get("agent_name"),
            "parent_session_id": new.request.get("parent_session_id"),
            "status": run.status,
            "retry_lost": new.retry_lost,
            "waits_until_s": waits_until_s,
            "expires_s": expires_s,
            "idempotency_key": options.idempotency_key,
            "digest": new.digest,
            "created_at": self._database.utc_now(),
        }
        inserted = self._database.execute(
            f"INSERT INTO runs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608 - names are ours
            tuple(values.values()),
        )
        request = msgspec.json.encode({**new.request, **msgspec.to_builtins(options)})
        self._database.execute("INSERT INTO requests (seq, body) VALUES (?, ?)", (inserted.lastrowid, request))
        changed = {"run_id": run.run_id, "session_id": session_id, "status": run.status}
        self._database.record_event("run_created", changed)
        return CreatedRun(**changed, class_id=class_id if waits_until_s is None else None)

    def repeated(self, idempotency_key: str, digest: bytes) -> CreatedRun | None:
        """Return the run of an earlier request with this key; None: there is none. Raises `Conflict`."""
        row = self._database.row(
            "SELECT run_id, session_id, status, digest FROM runs WHERE idempotency_key = ?", (idempotency_key,)
        )
        if row is None:
            return None
        if row["digest"] != digest:
            message = f"{row['run_id']} was started with this idempotency_key and another request: use another key"
            raise Conflict({"error": "idempotency_conflict", "run_id": row["run_id"], "message": message})
        return CreatedRun(run_id=row["run_id"], session_id=row["session_id"], status=row["status"], class_id=None)

    def claim(
        self, runner_id: str, registration: int | None, class_ids: Sequence[int], max_running: Mapping[str, int]
    ) -> ClaimedRun | None:
        """Assign the first pending run of these classes to the runner. None: there is none."""
        full_agents = self._classes.full_agents(max_running) if max_running else []
        listed = (msgspec.json.encode(each).decode() for each in (class_ids, full_agents))
        values = (runner_id, registration is not None, self._database.utc_now(), self._database.now_s(), *listed)
        row = self._database.row(_CLAIM, values)
        if row is None:
            return None
        self._runs.recorded("run_updated", row)
        return self._claimed(row, max_running)

    def untold_claim(self, runner_id: str) -> ClaimedRun | None:
        """Return the oldest fenced claim of the runner for which `note_told` was not called. None: there is none."""
        row = self._database.row(
            "SELECT * FROM runs INDEXED BY runs_by_runner WHERE runner_id = ? AND status = 'claimed'"
            " AND is_fenced AND NOT is_told ORDER BY seq LIMIT 1",
            (runner_id,),
        )
        return None if row is None else self._claimed(row, {})

    def note_told(self, run_id: str) -> None:
        """Note that the response with the claim was written."""
        self._database.execute("UPDATE runs SET is_told = 1 WHERE run_id = ? AND status = 'claimed'", (run_id,))

    def release(self, run_id: str) -> None:
        """Undo a claim. The run keeps its place in the queue."""
        self._runs.changed(
            "UPDATE runs SET status = 'pending', runner_id = NULL, claimed_at = NULL"
            " WHERE run_id = ? AND status = 'claimed' RETURNING *",
            (run_id,),
        )

    def admit_due(self) -> Mapping[int, DemandClass]:
        """Let the runs whose `not_before` has come be claimed. Return all classes with runs that can be claimed now."""
        self._database.execute(
            "UPDATE runs INDEXED BY runs_waiting SET waits_until_s = NULL"
            " WHERE status = 'pending' AND waits_until_s IS NOT NULL AND waits_until_s <= ?",
            (self._database.now_s(),),
        )
        return self._classes.ready()

    def expired(self, most: int) -> list[tuple[str, float]]:
        """Return some of the pending runs whose time in the queue is over, with that time in seconds."""
        rows = self._database.execute(
            "SELECT run_id, body FROM runs INDEXED BY runs_expiring JOIN requests USING (seq)"
            " WHERE status = 'pending' AND expires_s IS NOT NULL AND expires_s <= ? ORDER BY expires_s LIMIT ?",
            (self._database.now_s(), most),
        )
        return [(row["run_id"], _decode_ttl(row["body"]).queue_ttl_seconds) for row in rows]

    def _session_of(self, new: NewRun) -> str:
        """Create the run's session, or return the one that it resumes."""
        if isinstance(new.session, NewSession):
            self._sessions.create(new.session)
            return new.session.session_id
        session = self._sessions.get(new.session)
        if new.parent_session_id != session["parent_session_id"]:
            self._sessions.update(new.session, parent_session_id=new.parent_session_id)
        return new.session

    def _claimed(self, row: sqlite3.Row, max_running: Mapping[str, int]) -> ClaimedRun:
        class_id = row["class_id"]
        has_more = self._classes.is_ready(class_id)
        agent = self._classes.get(class_id).limited_agent
        if has_more and agent is not None and agent in max_running:
            has_more = agent not in self._classes.full_agents({agent: max_running[agent]})
        return ClaimedRun(run=self._runs.json_of(row), run_id=row["run_id"], class_id=class_id, has_more=has_more)


def _times(options: QueueOptions, now_s: float) -> tuple[float | None, float | None]:
    """Return until when the run waits, and when its time in the queue is over; None: not at all, and never."""
    waits_until_s = None
    if (
        options.not_before is not None
        and (not_before_s := datetime.fromisoformat(options.not_before).timestamp()) > now_s
    ):
        waits_until_s = not_before_s
    ttl_s = options.queue_ttl_seconds
    return waits_until_s, None if ttl_s is None else (waits_until_s or now_s) + ttl_s
