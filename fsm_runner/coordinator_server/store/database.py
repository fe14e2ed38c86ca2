"""The coordinator's SQLite database: one connection, used from one thread."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fsm_runner.coordinator_server.store.database_errors import GONE, DatabaseUnavailable, DiskFull, unavailable
from fsm_runner.coordinator_server.store.interface import ChangeEvent
from fsm_runner.errors import UsageError
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.files import HeldFiles, is_full

SCHEMA_VERSION = 3
MIGRATIONS = {
    1: "ALTER TABLE sessions ADD COLUMN provider_limit BLOB",
    2: """
        ALTER TABLE sessions ADD COLUMN workflow BLOB;
        ALTER TABLE runs ADD COLUMN decision BLOB;
        ALTER TABLE runs ADD COLUMN decided BLOB
        """,
}
"""The statements that turn a database of the version into the next version."""
CACHED_STATEMENTS = 256

_SCHEMA = """
CREATE TABLE sessions (
    seq INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    project_dir TEXT,
    agent_name TEXT,
    executor_session_id TEXT,
    hostname TEXT,
    executor_profile TEXT,
    parent_session_id TEXT,
    execution_mode TEXT NOT NULL,
    created_at TEXT NOT NULL,
    last_resumed_at TEXT,
    provider_limit BLOB,
    workflow BLOB
);
CREATE INDEX sessions_by_status ON sessions (status);
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    status TEXT NOT NULL,
    runner_id TEXT,
    error TEXT,
    demands BLOB NOT NULL,
    request BLOB NOT NULL,
    created_at TEXT NOT NULL,
    claimed_at TEXT,
    started_at TEXT,
    completed_at TEXT,
    decision BLOB,
    decided BLOB
);
CREATE INDEX runs_by_status ON runs (status, seq);
CREATE INDEX runs_by_session ON runs (session_id, seq);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    event_type TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX events_in_order ON events (session_id, timestamp, seq);
"""


class Database:
    """An open database. Use it from one thread at a time."""

    def __init__(self, file: Path | None) -> None:
        """Open or create the file; None keeps the data in memory. Raises `UsageError` that names the file."""
        self._file = file
        self._connection = _connect(file)
        self._held = HeldFiles(() if file is None else (file, file.with_name(f"{file.name}-wal")))
        self._events: list[ChangeEvent] = []

    @property
    def changed_rows(self) -> int:
        """The number of rows changed since the database was opened."""
        return self._connection.total_changes

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
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            _prepare_schema(connection, file)
            stack.pop_all()
            return connection
    except sqlite3.Error as error:
        reason = f"cannot be used as the coordinator's database: {error}"
        if "locked" in str(error):
            reason = "the database is in use by another coordinator; stop that one or name another file"
        raise UsageError(f"{file}: {reason}") from None


def _prepare_schema(connection: sqlite3.Connection, file: Path | None) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    has_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{file}: it belongs to a newer release of fsm-runner (database version {version}; this release has "
            f"{SCHEMA_VERSION}); start that release, or name another file"
        )
    if version < 0 or (version == 0 and has_tables):
        raise UsageError(
            f"{file}: it is not a database of this coordinator (version {SCHEMA_VERSION}); name another file"
        )
    if version == 0:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
    else:
        for older in range(version, SCHEMA_VERSION):
            for statement in MIGRATIONS[older].split(";"):
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")
