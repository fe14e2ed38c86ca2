"""The coordinator's SQLite database: one connection, used from one thread."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.store.interface import ChangeEvent
from fsm_runner.coordinator_server.store.sqlite.database_errors import (
    GONE,
    DatabaseUnavailable,
    DiskFull,
    unavailable,
)
from fsm_runner.coordinator_server.store.sqlite.migrations import SCHEMA_VERSION, migrate
from fsm_runner.errors import UsageError
from fsm_runner.protocol.event_clock import utc_text
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.files import HeldFiles, is_full

CACHED_STATEMENTS = 256
USUAL_JOURNAL = ("journal_mode=WAL", "synchronous=NORMAL")


class Database:
    """An open database. Use it from one thread at a time."""

    def __init__(self, file: Path | None, now_s: Callable[[], float]) -> None:
        """Open or create the file; None keeps the data in memory. Raises `UsageError` that names the file.

        `now_s` returns the Unix time.
        """
        self.now_s = now_s
        self._file = file
        self._connection = _connect(file)
        self._held = HeldFiles(() if file is None else (file, file.with_name(f"{file.name}-wal")))
        self._events: list[ChangeEvent] = []

    @property
    def changed_rows(self) -> int:
        """The number of rows changed since the database was opened."""
        return self._connection.total_changes

    def utc_now(self) -> str:
        """Return the time as text, as `event_clock.utc_now` does."""
        return utc_text(self.now_s())

    def check(self, *, by_writing: bool) -> None:
        """Raise `DatabaseUnavailable` if the database cannot be used. `by_writing` tests a write too."""
        self._check_presence()
        if self._file is not None and is_full(self._file.parent):
            raise DiskFull(self._file)
        if by_writing:
            with self.transaction():
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _check_presence(self) -> None:
        if self._held.first_missing() is not None:
            raise DatabaseUnavailable(self._file, GONE)

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def row(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Row | None:
        """Return the first row. An UPDATE … RETURNING takes effect when its last row is read, so all are fetched."""
        rows = self._connection.execute(statement, values).fetchall()
        return rows[0] if rows else None

    def record_event(self, event_type: str, data: JsonObject) -> None:
        """Record a change of the transaction. `data` has a `session_id`."""
        self._events.append(ChangeEvent(event_type, data))

    def take_events(self) -> list[ChangeEvent]:
        """Return the changes recorded since the last call."""
        taken, self._events = self._events, []
        return taken

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the body's statements, or roll them back. Raises `DatabaseUnavailable` for a file or disk error."""
        try:
            self._roll_back()  # an earlier rollback may have failed with the disk
            self._connection.execute("BEGIN IMMEDIATE")
            changed_rows = self.changed_rows
            yield
            if self.changed_rows != changed_rows:
                self._check_presence()
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._events.clear()
            with suppress(sqlite3.Error):  # the first error is the cause
                self._roll_back()
            if isinstance(error, sqlite3.Error) and (reason := unavailable(self._file, error)) is not None:
                raise reason from error
            raise

    def _roll_back(self) -> None:
        # A failed COMMIT may have rolled back already.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _connect(file: Path | None) -> sqlite3.Connection:
    try:
        with ExitStack() as stack:
            connection = sqlite3.connect(
                ":memory:" if file is None else file,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=CACHED_STATEMENTS,
            )
            stack.callback(connection.close)
            connection.row_factory = sqlite3.Row
            # Exclusive: of two coordinators with one file, each would wake only its own runners.
            _set(connection, "locking_mode=EXCLUSIVE", *USUAL_JOURNAL, "foreign_keys=ON")
            migrate(connection, file)
            # A migration uses another journal. The usual one exists as a file after the first write.
            _set(connection, *USUAL_JOURNAL, f"user_version={SCHEMA_VERSION}")
            stack.pop_all()
            return connection
    except (sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
        # A migration decodes the data.
        reason = f"cannot be used as the coordinator's database: {error}"
        if "locked" in str(error):
            reason = "the database is in use by another coordinator; stop that one or name another file"
        raise UsageError(f"{file}: {reason}") from None


def _set(connection: sqlite3.Connection, *pragmas: str) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()
