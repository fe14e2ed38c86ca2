"""Sessions and their events in the database."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import Conflict, InvalidRequest, NotFound
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.statuses import COMPLETED_SESSION_STATUSES, LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import Bind, JsonObject

SESSION_NOT_FOUND = "Session not found"

_NULL = msgspec.Raw(b"null")


class EventHead(msgspec.Struct, frozen=True):
    """The fields of every event (protocol.md, section 1.4)."""

    event_type: str
    session_id: str
    timestamp: str


class SessionPatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `PATCH /sessions/{id}/metadata`. Fields that are absent or null stay unchanged."""

    project_dir: str | None = None
    agent_name: str | None = None
    executor_session_id: str | None = None
    executor_profile: str | None = None
    hostname: str | None = None
    last_resumed_at: str | None = None


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
        return _required(self.find(session_id))

    def all(self) -> list[JsonObject]:
        """Return the sessions, newest first."""
        return [_session_json(row) for row in self._database.execute("SELECT * FROM sessions ORDER BY seq DESC")]

    def create(self, session: JsonObject) -> None:
        """Raises `Conflict` if the id is taken."""
        columns = ", ".join(session)
        marks = ", ".join("?" * len(session))
        try:
            row = self._database.row(
                f"INSERT INTO sessions ({columns}) VALUES ({marks}) RETURNING *",  # noqa: S608 - column names are ours
                tuple(session.values()),
            )
        except sqlite3.IntegrityError:
            raise Conflict(f"Session '{session['session_id']}' already exists") from None
        self._record("session_created", row)

    def update(self, session_id: str, **fields: str | None) -> JsonObject | None:
        """Set these columns and return the session; None if there is no such session."""
        settings = ", ".join(f"{column} = ?" for column in fields)
        row = self._database.row(
            f"UPDATE sessions SET {settings} WHERE session_id = ? RETURNING *",  # noqa: S608 - column names are ours
            (*fields.values(), session_id),
        )
        self._record("session_updated", row)
        return None if row is None else _session_json(row)

    def bind(self, session_id: str, binding: Bind) -> JsonObject:
        """Record the session's executor and set it to running. Raises `NotFound`."""
        fields = {key: value for key, value in msgspec.structs.asdict(binding).items() if value is not None}
        return _required(self.update(session_id, status="running", **fields))

    def patch(self, session_id: str, patch: SessionPatch) -> JsonObject:
        """Raises `NotFound`."""
        fields = {key: value for key, value in msgspec.structs.asdict(patch).items() if value is not None}
        return _required(self.update(session_id, **fields) if fields else self.find(session_id))

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
        counts = {}
        for table in ("runs", "events"):
            counted = self._database.row(
                f"SELECT count(*) AS n FROM {table} WHERE session_id = ?",  # noqa: S608 - one of our tables
                (session_id,),
            )
            counts[f"{table}_count"] = counted["n"] if counted else 0
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

    def _record(self, kind: str, row: sqlite3.Row | None) -> None:
        if row is not None:
            session = _session_json(row)
            self._database.record_event(kind, {"session_id": session["session_id"], "session": session})


def _required(session: JsonObject | None) -> JsonObject:
    if session is None:
        raise NotFound(SESSION_NOT_FOUND)
    return session


def _session_json(row: sqlite3.Row) -> JsonObject:
    return {column: row[column] for column in row.keys() if column != "seq"}  # noqa: SIM118 - a Row iterates values
