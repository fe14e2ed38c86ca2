"""Sessions and their events in the database."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import Refusal, session_not_found
from fsm_runner.coordinator_server.http.schemas import EventHead, SessionPatch
from fsm_runner.coordinator_server.store.change_events import ChangeEvents
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.ids import utc_now
from fsm_runner.protocol.statuses import COMPLETED_SESSION_STATUSES, LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import Bind, JsonObject

_NULL = msgspec.Raw(b"null")


class _Result(msgspec.Struct, frozen=True):
    """What a result event says, of any form."""

    result_text: msgspec.Raw = _NULL
    result_data: msgspec.Raw = _NULL


_decode_result = msgspec.json.Decoder(_Result).decode


class SessionTable:
    def __init__(self, database: Database, notices: ChangeEvents) -> None:
        self._database = database
        self._notices = notices

    def find(self, session_id: str) -> JsonObject | None:
        row = self._database.row("SELECT * FROM sessions WHERE session_id = ?", (session_id,))
        return None if row is None else _shown(row)

    def get(self, session_id: str) -> JsonObject:
        """Raises a 404 Refusal."""
        session = self.find(session_id)
        if session is None:
            raise session_not_found()
        return session

    def all(self) -> list[JsonObject]:
        """Newest first."""
        return [_shown(row) for row in self._database.execute("SELECT * FROM sessions ORDER BY seq DESC")]

    def create(self, session: JsonObject) -> None:
        """Raises a 409 Refusal where there is one of this id."""
        columns = ", ".join(session)
        marks = ", ".join("?" * len(session))
        try:
            row = self._database.row(
                f"INSERT INTO sessions ({columns}) VALUES ({marks}) RETURNING *",  # noqa: S608 - column names are ours
                tuple(session.values()),
            )
        except sqlite3.IntegrityError:
            raise Refusal(409, f"Session '{session['session_id']}' already exists") from None
        self._tell("session_created", row)

    def update(self, session_id: str, **fields: str | None) -> JsonObject | None:
        """Set these columns; the session as it then is, or None where there is none."""
        settings = ", ".join(f"{column} = ?" for column in fields)
        row = self._database.row(
            f"UPDATE sessions SET {settings} WHERE session_id = ? RETURNING *",  # noqa: S608 - column names are ours
            (*fields.values(), session_id),
        )
        self._tell("session_updated", row)
        return None if row is None else _shown(row)

    def bind(self, session_id: str, binding: Bind) -> JsonObject:
        """The executor has taken the session up: it is running. Raises a 404 Refusal."""
        fields = {key: value for key, value in msgspec.structs.asdict(binding).items() if value is not None}
        session = self.update(session_id, status="running", **fields)
        if session is None:
            raise session_not_found()
        return session

    def patch(self, session_id: str, patch: SessionPatch) -> JsonObject:
        """Raises a 404 Refusal."""
        fields = {key: value for key, value in msgspec.structs.asdict(patch).items() if value is not None}
        session = self.update(session_id, **fields) if fields else self.find(session_id)
        if session is None:
            raise session_not_found()
        return session

    def finish_idle_of(self, runner_id: str) -> None:
        """The idle sessions whose last claimed run was this runner's are finished."""
        rows = self._database.execute(
            "UPDATE sessions SET status = 'finished' WHERE status = 'idle' AND ? = (SELECT runner_id FROM runs"
            " WHERE runs.session_id = sessions.session_id AND runner_id IS NOT NULL ORDER BY seq DESC LIMIT 1)"
            " RETURNING *",
            (runner_id,),
        ).fetchall()
        for row in rows:
            self._tell("session_updated", row)

    def delete(self, session_id: str) -> JsonObject:
        """With its runs and events; says how many there were. Raises a 404 or 409 Refusal."""
        status = self.get(session_id)["status"]
        if status in LIVE_SESSION_STATUSES:
            raise Refusal(409, f"Session is {status} and cannot be deleted; stop it first")
        counts = {}
        for table in ("runs", "events"):
            counted = self._database.row(
                f"SELECT count(*) AS n FROM {table} WHERE session_id = ?",  # noqa: S608 - one of our tables
                (session_id,),
            )
            counts[f"{table}_count"] = counted["n"] if counted else 0
        self._database.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
        self._notices.add("session_deleted", {"session_id": session_id, "runs_deleted": counts["runs_count"]})
        return counts

    def add_event(self, event: EventHead, body: bytes) -> None:
        """The session has to exist. `body`: the whole event, a JSON object that may be megabytes; kept as it came."""
        self._database.execute(
            "INSERT INTO events (session_id, event_type, timestamp, body) VALUES (?, ?, ?, ?)",
            (event.session_id, event.event_type, event.timestamp, body),
        )
        self._notices.add("event", {"session_id": event.session_id, "data": msgspec.Raw(body)})

    def note(self, session_id: str, event_type: str, **fields: str | None) -> None:
        """An event that the coordinator writes itself."""
        head = EventHead(event_type, session_id, utc_now())
        self.add_event(head, msgspec.json.encode({**msgspec.structs.asdict(head), **fields}))

    def events(self, session_id: str) -> list[msgspec.Raw]:
        """By timestamp, as text. Raises a 404 Refusal."""
        self.get(session_id)
        rows = self._database.execute(
            "SELECT body FROM events WHERE session_id = ? ORDER BY timestamp, seq", (session_id,)
        )
        return [msgspec.Raw(row["body"]) for row in rows]

    def result(self, session_id: str) -> JsonObject:
        """What the result event with the greatest timestamp says. Raises a 404 or 400 Refusal."""
        if self.get(session_id)["status"] not in COMPLETED_SESSION_STATUSES:
            raise Refusal(400, "Session not finished")
        row = self._database.row(
            "SELECT body FROM events WHERE session_id = ? AND event_type = 'result'"
            " ORDER BY timestamp DESC, seq DESC LIMIT 1",
            (session_id,),
        )
        if row is None:
            raise Refusal(404, "No result found")
        return msgspec.structs.asdict(_decode_result(row["body"]))

    def _tell(self, kind: str, row: sqlite3.Row | None) -> None:
        if row is not None:
            session = _shown(row)
            self._notices.add(kind, {"session_id": session["session_id"], "session": session})


def _shown(row: sqlite3.Row) -> JsonObject:
    return {column: row[column] for column in row.keys() if column != "seq"}  # noqa: SIM118 - a Row iterates values
