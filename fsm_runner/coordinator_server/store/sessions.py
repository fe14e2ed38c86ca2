"""Sessions and their events in the database."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import Conflict, InvalidRequest, NotFound
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.protocol.approvals import WorkflowState
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.statuses import COMPLETED_SESSION_STATUSES, LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import JsonObject

AFFINITY_FIELDS = ("session_id", "hostname", "project_dir", "executor_profile", "executor_session_id")
LIMIT_COLUMN = "provider_limit"
"""The field `limit` as JSON. `limit` itself is a keyword of SQL."""
WORKFLOW_COLUMN = "workflow"
OPTIONAL_FIELDS = {"limit": LIMIT_COLUMN, "workflow": WORKFLOW_COLUMN}
"""The columns with JSON of the fields that a session has only if they are set."""
HIDDEN_COLUMNS = ("seq", *OPTIONAL_FIELDS.values())
SESSION_NOT_FOUND = "Session not found"

_NULL = msgspec.Raw(b"null")


class EventHead(msgspec.Struct, frozen=True):
    """The fields of every event (protocol.md, section 1.4)."""

    event_type: str
    session_id: str
    timestamp: str


class SessionPatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `PATCH /sessions/{id}/metadata`. Absent and null fields stay unchanged, but null deletes the last two."""

    project_dir: str | None = None
    agent_name: str | None = None
    executor_session_id: str | None = None
    executor_profile: str | None = None
    hostname: str | None = None
    last_resumed_at: str | None = None
    limit: JsonObject | None = None
    """The provider's limit for which a run of the session waits (section 2.3)."""
    workflow: WorkflowState | None = None
    """Where the workflow of the session's run is (section 1.4)."""


class _Result(msgspec.Struct, frozen=True):
    """The result fields of an event, of any type."""

    result_text: msgspec.Raw = _NULL
    result_data: msgspec.Raw = _NULL


_decode_result = msgspec.json.Decoder(_Result).decode


class SessionTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, session_id: str) -> JsonObject | None:
        row = self._database.row("SELECT * FROM sessions WHERE session_id = ?", (session_id,))
        return None if row is None else _session_json(row)

    def get(self, session_id: str) -> JsonObject:
        """Raises `NotFound`."""
        if (session := self.find(session_id)) is None:
            raise NotFound(SESSION_NOT_FOUND)
        return session

    def status(self, session_id: str) -> str:
        """Return `not_existent` if there is no such session."""
        session = self.find(session_id)
        return "not_existent" if session is None else session["status"]

    def affinity(self, session_id: str) -> JsonObject:
        """Raises `NotFound`."""
        session = self.get(session_id)
        return {field: session[field] for field in AFFINITY_FIELDS}

    def all(self) -> list[JsonObject]:
        """Return the sessions, newest first."""
        return [_session_json(row) for row in self._database.execute("SELECT * FROM sessions ORDER BY seq DESC")]

    def create(self, session: JsonObject) -> None:
        """Raises `Conflict` if the id is taken."""
        columns = ", ".join(session)
        marks = ", ".join("?" * len(session))
        try:
            (row,) = self._database.execute(
                f"INSERT INTO sessions ({columns}) VALUES ({marks}) RETURNING *",  # noqa: S608 - column names are ours
                tuple(session.values()),
            ).fetchall()
        except sqlite3.IntegrityError:
            raise Conflict(f"Session '{session['session_id']}' already exists") from None
        self._record("session_created", row)

    def update(self, session_id: str, **fields: str | bytes | None) -> JsonObject:
        """Set these columns, if any, and return the session. Raises `NotFound`."""
        if not fields:
            return self.get(session_id)
        settings = ", ".join(f"{column} = ?" for column in fields)
        row = self._database.row(
            f"UPDATE sessions SET {settings} WHERE session_id = ? RETURNING *",  # noqa: S608 - column names are ours
            (*fields.values(), session_id),
        )
        if row is None:
            raise NotFound(SESSION_NOT_FOUND)
        return self._record("session_updated", row)

    def finish_idle_of(self, runner_id: str) -> None:
        """Finish the idle sessions whose last claimed run was on this runner."""
        rows = self._database.execute(
            "UPDATE sessions SET status = 'finished' WHERE status = 'idle' AND ? = (SELECT runner_id FROM runs"
            " WHERE runs.session_id = sessions.session_id AND runner_id IS NOT NULL ORDER BY seq DESC LIMIT 1)"
            " RETURNING *",
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
        self._database.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
        self._database.record_event("session_deleted", {"session_id": session_id, "runs_deleted": counts["runs_count"]})
        return counts

    def add_event(self, event: EventHead, body: bytes) -> None:
        """Add an event of an existing session. `body`: the whole event as received, which may be megabytes of JSON."""
        self._database.execute(
            "INSERT INTO events (session_id, event_type, timestamp, body) VALUES (?, ?, ?, ?)",
            (event.session_id, event.event_type, event.timestamp, body),
        )
        self._database.record_event("event", {"session_id": event.session_id, "data": msgspec.Raw(body)})

    def add_own_event(self, session_id: str, event_type: str, **fields: str | None) -> None:
        """Add an event of the coordinator itself."""
        head = EventHead(event_type, session_id, utc_now())
        self.add_event(head, msgspec.json.encode({**msgspec.structs.asdict(head), **fields}))

    def events(self, session_id: str) -> list[msgspec.Raw]:
        """Return the events, ordered by timestamp as text. Raises `NotFound`."""
        self.get(session_id)
        rows = self._database.execute(
            "SELECT body FROM events WHERE session_id = ? ORDER BY timestamp, seq", (session_id,)
        )
        return [msgspec.Raw(row["body"]) for row in rows]

    def result(self, session_id: str) -> JsonObject:
        """Return the fields of the result event with the greatest timestamp. Raises `NotFound`, `InvalidRequest`."""
        if self.get(session_id)["status"] not in COMPLETED_SESSION_STATUSES:
            raise InvalidRequest("Session not finished")
        row = self._database.row(
            "SELECT body FROM events WHERE session_id = ? AND event_type = 'result'"
            " ORDER BY timestamp DESC, seq DESC LIMIT 1",
            (session_id,),
        )
        if row is None:
            raise NotFound("No result found")
        return msgspec.structs.asdict(_decode_result(row["body"]))

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
