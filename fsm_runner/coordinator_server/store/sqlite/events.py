"""The events of sessions in the database."""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import InvalidRequest, NotFound
from fsm_runner.coordinator_server.store.interface import EventHead
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.sessions import SESSION_NOT_FOUND, SessionTable
from fsm_runner.protocol.statuses import COMPLETED_SESSION_STATUSES
from fsm_runner.protocol.wire import JsonObject

_NULL = msgspec.Raw(b"null")


class _Result(msgspec.Struct, frozen=True):
    """The result fields of an event, of any type."""

    result_text: msgspec.Raw = _NULL
    result_data: msgspec.Raw = _NULL


_decode_result = msgspec.json.Decoder(_Result).decode


class EventTable:
    def __init__(self, database: Database, sessions: SessionTable) -> None:
        self._database = database
        self._sessions = sessions

    def add(self, event: EventHead, body: bytes) -> None:
        """Add an event. `body`: the whole event as received, which may be megabytes of JSON. Raises `NotFound`."""
        try:
            self._database.execute(
                "INSERT INTO events (session_id, event_type, timestamp, body) VALUES (?, ?, ?, ?)",
                (event.session_id, event.event_type, event.timestamp, body),
            )
        except sqlite3.IntegrityError:  # the reference to the session
            raise NotFound(SESSION_NOT_FOUND) from None
        self._database.record_event("event", {"session_id": event.session_id, "data": msgspec.Raw(body)})

    def add_own(self, session_id: str, event_type: str, **fields: str | None) -> None:
        """Add an event of the coordinator itself."""
        head = EventHead(event_type, session_id, self._database.utc_now())
        self.add(head, msgspec.json.encode({**msgspec.structs.asdict(head), **fields}))

    def of_session(self, session_id: str) -> list[msgspec.Raw]:
        """Return the events, ordered by timestamp as text. Raises `NotFound`."""
        self._sessions.get(session_id)
        rows = self._database.execute(
            "SELECT body FROM events WHERE session_id = ? ORDER BY timestamp, seq", (session_id,)
        )
        return [msgspec.Raw(row["body"]) for row in rows]

    def result(self, session_id: str) -> JsonObject:
        """Return the fields of the result event with the greatest timestamp. Raises `NotFound`, `InvalidRequest`."""
        if self._sessions.get(session_id)["status"] not in COMPLETED_SESSION_STATUSES:
            raise InvalidRequest("Session not finished")
        row = self._database.row(
            "SELECT body FROM events WHERE session_id = ? AND event_type = 'result'"
            " ORDER BY timestamp DESC, seq DESC LIMIT 1",
            (session_id,),
        )
        if row is None:
            raise NotFound("No result found")
        return msgspec.structs.asdict(_decode_result(row["body"]))
