"""The tables of a journal."""

import sqlite3
from itertools import chain

from fsm_runner.errors import UsageError

SCHEMA_VERSION = 2
WITH_USAGE = 2
"""The version from which on a run has its usage."""
RUN = "run"
SESSION = "session"
RUNNER = "runner"
"""The machines whose transitions are kept."""
# Each transition has its number from whoever noted it, so that `sessions.after_seq` can tell one life of a session
# from the next. The same holds for the ids of messages; AUTOINCREMENT remembers the greatest, also of what is gone.
_TABLES = """
CREATE TABLE transitions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    monotonic_s REAL NOT NULL,
    process TEXT NOT NULL,
    machine TEXT NOT NULL,
    subject TEXT NOT NULL,
    event TEXT NOT NULL,
    source TEXT,
    target TEXT NOT NULL,
    outcome TEXT,
    reason TEXT NOT NULL
);
CREATE INDEX transitions_by_subject ON transitions (machine, subject);
CREATE INDEX transitions_of_no_subject ON transitions (at) WHERE machine NOT IN ('run', 'session');
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    agent TEXT,
    runner_id TEXT NOT NULL,
    claimed_at TEXT NOT NULL,
    run BLOB NOT NULL,
    report_path TEXT,
    report_body BLOB,
    report_overrules INTEGER,
    ended_at TEXT,
    usage BLOB
);
CREATE INDEX runs_by_end ON runs (ended_at);
CREATE INDEX runs_by_session ON runs (session_id);
CREATE TABLE sessions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL UNIQUE,
    runner_id TEXT NOT NULL,
    began_at TEXT NOT NULL,
    after_seq INTEGER NOT NULL,
    run BLOB NOT NULL,
    ended_at TEXT
);
CREATE INDEX sessions_by_end ON sessions (ended_at);
CREATE TABLE processes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL UNIQUE,
    began_at TEXT NOT NULL
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    content BLOB NOT NULL
);
"""


_RENEWALS = {
    1: (
        "ALTER TABLE runs ADD COLUMN usage BLOB",
        next(statement for statement in _TABLES.split(";") if "CREATE TABLE processes" in statement),
    )
}
"""What makes of a journal of this version one of the next."""


def version_of(connection: sqlite3.Connection, name: str) -> int:
    """0: nothing is in it yet. Raises UsageError, which names the file, where it is not a journal of ours."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{name}: this journal was written by a newer version of fsm-runner (journal version {version}, this one "
            f"knows {SCHEMA_VERSION}): use that version, or another --state-dir"
        )
    if version < 0 or (version == 0 and tables > 0):
        raise UsageError(f"{name}: is a database, but not a runner's journal: move it away, or use another --state-dir")
    return version


def create_tables(connection: sqlite3.Connection) -> None:
    """All of them or none."""
    connection.execute("BEGIN EXCLUSIVE")
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")


def renew_tables(connection: sqlite3.Connection, version: int) -> None:
    """Of an older version, in one step or not at all."""
    connection.execute("BEGIN EXCLUSIVE")
    for statement in chain.from_iterable(_RENEWALS[each] for each in range(version, SCHEMA_VERSION)):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")
