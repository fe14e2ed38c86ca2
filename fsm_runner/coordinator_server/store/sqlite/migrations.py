"""The schema of the database, as numbered migrations: a new database gets all of them.

Each migration is fixed text or code: it uses nothing that a later release changes.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from loguru import logger

from fsm_runner.errors import UsageError

_VERSION_1 = """
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
    last_resumed_at TEXT
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
    completed_at TEXT
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

_VERSION_2 = "ALTER TABLE sessions ADD COLUMN provider_limit BLOB"

_VERSION_3 = """
ALTER TABLE sessions ADD COLUMN workflow BLOB;
ALTER TABLE runs ADD COLUMN decision BLOB;
ALTER TABLE runs ADD COLUMN decided BLOB;
"""

# Requests may be large and never change, and each change of a row writes the whole row.
_VERSION_4_TABLES = """
CREATE TABLE runners (
    registration INTEGER PRIMARY KEY AUTOINCREMENT,
    runner_id TEXT NOT NULL UNIQUE
);
CREATE TABLE classes (
    class_id INTEGER PRIMARY KEY AUTOINCREMENT,
    definition BLOB NOT NULL UNIQUE,
    limited_agent TEXT,
    ready INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX classes_open ON classes (ready) WHERE ready + claimed + running > 0;
CREATE INDEX classes_limited ON classes (limited_agent) WHERE limited_agent IS NOT NULL;
ALTER TABLE runs RENAME TO runs_3;
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    class_id INTEGER NOT NULL REFERENCES classes (class_id),
    rank INTEGER NOT NULL,
    agent_name TEXT,
    parent_session_id TEXT,
    status TEXT NOT NULL,
    runner_id TEXT,
    is_fenced INTEGER NOT NULL DEFAULT 0,
    is_told INTEGER NOT NULL DEFAULT 0,
    is_lost INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 1,
    retry_lost INTEGER NOT NULL DEFAULT 0,
    waits_until_s REAL,
    expires_s REAL,
    idempotency_key TEXT,
    digest BLOB,
    error TEXT,
    created_at TEXT NOT NULL,
    claimed_at TEXT,
    started_at TEXT,
    completed_at TEXT,
    decision BLOB,
    decided BLOB
);
CREATE TABLE requests (
    seq INTEGER PRIMARY KEY REFERENCES runs (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
);
ALTER TABLE sessions ADD COLUMN last_run_ended_at TEXT;
"""

_VERSION_4_INDICES = """
DROP TABLE runs_3;
CREATE INDEX runs_by_status ON runs (status, seq);
CREATE INDEX runs_by_session ON runs (session_id, seq);
CREATE INDEX runs_by_class ON runs (class_id, seq);
CREATE INDEX runs_by_runner ON runs (runner_id, status, seq) WHERE runner_id IS NOT NULL;
CREATE INDEX runs_by_agent ON runs (agent_name, seq) WHERE agent_name IS NOT NULL;
CREATE INDEX runs_by_parent ON runs (parent_session_id, seq) WHERE parent_session_id IS NOT NULL;
CREATE INDEX runs_open ON runs (session_id, seq) WHERE status IN ('pending', 'claimed', 'running', 'stopping');
CREATE INDEX runs_ready ON runs (class_id, rank, seq) WHERE status = 'pending' AND waits_until_s IS NULL;
CREATE INDEX runs_waiting ON runs (waits_until_s) WHERE status = 'pending' AND waits_until_s IS NOT NULL;
CREATE INDEX runs_expiring ON runs (expires_s) WHERE status = 'pending' AND expires_s IS NOT NULL;
CREATE UNIQUE INDEX runs_by_key ON runs (idempotency_key) WHERE idempotency_key IS NOT NULL;
DROP INDEX sessions_by_status;
CREATE INDEX sessions_idle ON sessions (seq) WHERE status = 'idle';
CREATE INDEX sessions_ended ON sessions (last_run_ended_at) WHERE status IN ('finished', 'failed', 'stopped');
UPDATE classes SET ready = open.pending, claimed = open.claimed, running = open.running FROM (
    SELECT class_id, sum(status = 'pending') AS pending, sum(status = 'claimed') AS claimed,
        sum(status IN ('running', 'stopping')) AS running
    FROM runs INDEXED BY runs_by_status WHERE status IN ('pending', 'claimed', 'running', 'stopping') GROUP BY class_id
) AS open WHERE classes.class_id = open.class_id;
UPDATE sessions SET last_run_ended_at = (SELECT max(completed_at) FROM runs WHERE session_id = sessions.session_id);
"""

_COUNTED = """
    UPDATE classes SET
        ready = ready + {sign} ({row}.status = 'pending' AND {row}.waits_until_s IS NULL),
        claimed = claimed + {sign} ({row}.status = 'claimed'),
        running = running + {sign} ({row}.status IN ('running', 'stopping'))
    WHERE class_id = {row}.class_id;
"""
_ADD, _SUBTRACT = _COUNTED.format(row="NEW", sign="+"), _COUNTED.format(row="OLD", sign="-")
_DELETE_UNUSED = """
    DELETE FROM classes WHERE class_id = OLD.class_id
        AND NOT EXISTS (SELECT 1 FROM runs WHERE class_id = OLD.class_id);
"""
_VERSION_4_TRIGGERS = (
    f"CREATE TRIGGER runs_inserted AFTER INSERT ON runs BEGIN {_ADD} END",
    f"CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN {_SUBTRACT} {_DELETE_UNUSED} END",
    f"CREATE TRIGGER runs_changed AFTER UPDATE OF status, waits_until_s ON runs BEGIN {_SUBTRACT} {_ADD} END",
    f"CREATE TRIGGER runs_moved AFTER UPDATE OF class_id ON runs BEGIN {_SUBTRACT} {_ADD} {_DELETE_UNUSED} END",
)
"""They count the open runs of each class, so that the pending queue is never read to count it, and delete a class with
its last run. A statement that changes `class_id` changes neither `status` nor `waits_until_s`."""


class _Request3(msgspec.Struct, frozen=True):
    """The fields of a request in version 3 that become columns."""

    type: str
    agent_name: str | None = None
    parent_session_id: str | None = None


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)


def _to_version_4(connection: sqlite3.Connection) -> None:
    """Give each run the class of its demands, and its place in the queue."""
    _execute_all(connection, _VERSION_4_TABLES)
    copied = ("seq", "run_id", "session_id", "status", "runner_id", "error", "created_at", "claimed_at", "started_at")
    columns = (*copied, "completed_at", "decision", "decided")
    added = ("class_id", "rank", "agent_name", "parent_session_id")
    decode_request = msgspec.json.Decoder(_Request3).decode
    class_ids: dict[bytes, int] = {}

    def class_of(demands: dict[str, Any], run: _Request3) -> int:
        if run.type == "start_session" and demands.pop("runner_id", None) is not None:
            # Each runner with an agent of this name can claim it, not only the one that had it at the time.
            demands["owned_agent"] = run.agent_name
        definition = msgspec.json.encode({"demands": demands, "limited_agent": None})
        if definition not in class_ids:
            added = connection.execute("INSERT INTO classes (definition) VALUES (?) RETURNING class_id", (definition,))
            ((class_ids[definition],),) = added.fetchall()
        return class_ids[definition]

    def rows() -> Iterator[tuple[object, ...]]:
        for row in connection.execute(f"SELECT {', '.join(columns)}, request, demands FROM runs_3 ORDER BY seq"):  # noqa: S608
            run = decode_request(row["request"])
            class_id = class_of(msgspec.json.decode(row["demands"]), run)
            rank = round(datetime.fromisoformat(row["created_at"]).timestamp() * 1000)
            yield (*tuple(row)[: len(columns)], class_id, rank, run.agent_name, run.parent_session_id)

    names = (*columns, *added)
    connection.executemany(
        f"INSERT INTO runs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608 - names are ours
        rows(),
    )
    connection.execute("INSERT INTO requests (seq, body) SELECT seq, request FROM runs_3 ORDER BY seq")
    _execute_all(connection, _VERSION_4_INDICES)
    for trigger in _VERSION_4_TRIGGERS:
        connection.execute(trigger)


MIGRATIONS: Mapping[int, str | Callable[[sqlite3.Connection], None]] = {
    1: _VERSION_1,
    2: _VERSION_2,
    3: _VERSION_3,
    4: _to_version_4,
}
"""The statements or the function that turn a database of the version before into this version."""
SCHEMA_VERSION = max(MIGRATIONS)


def migrate(connection: sqlite3.Connection, file: Path | None) -> None:
    """Bring the database to this version in one transaction. Raises `UsageError` for one that is not ours or newer."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if 0 < version < SCHEMA_VERSION:
        logger.info("coordinator: {} is migrated from version {} to {}", file, version, SCHEMA_VERSION)
        # The log of the usual journal would become twice as large as the file.
        for pragma in ("journal_mode=DELETE", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("BEGIN EXCLUSIVE")
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
    for next_version in range(version + 1, SCHEMA_VERSION + 1):
        migration = MIGRATIONS[next_version]
        if isinstance(migration, str):
            _execute_all(connection, migration)
        else:
            migration(connection)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")
