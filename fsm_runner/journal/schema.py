"""The tables of a journal. `migration.py` brings those of earlier releases to this version."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from fsm_runner.errors import UsageError
from fsm_runner.journal.records import TransitionRow

SCHEMA_VERSION = 5
TRANSITION_COLUMNS = ", ".join(TransitionRow.__struct_fields__)

TREE_SESSIONS_TABLE = """
CREATE TABLE tree_sessions (
    session_id TEXT PRIMARY KEY,
    root_session_id TEXT NOT NULL,
    depth INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    tokens INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    changed_at TEXT NOT NULL
) WITHOUT ROWID"""
TREE_SESSIONS_INDICES = (
    "CREATE INDEX tree_sessions_by_root ON tree_sessions (root_session_id, changed_at)",
    "CREATE INDEX tree_sessions_by_change ON tree_sessions (changed_at)",
)
PROCESSES_TABLE = """
CREATE TABLE processes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL UNIQUE,
    began_at TEXT NOT NULL
)"""
WORKFLOWS_TABLES = (
    """
CREATE TABLE workflows (
    run_id TEXT PRIMARY KEY,
    began_at TEXT NOT NULL,
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    text TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    schemas BLOB NOT NULL,
    parameters BLOB NOT NULL,
    project_dir TEXT,
    scope BLOB,
    rerun_of TEXT,
    rerun_from TEXT,
    initial_values BLOB
)""",
    """
CREATE TABLE workflow_visits (
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    began_at TEXT NOT NULL,
    due_s REAL,
    interruptions INTEGER NOT NULL DEFAULT 0,
    progress BLOB,
    ended_at TEXT,
    ending TEXT,
    target TEXT,
    value_name TEXT,
    value BLOB,
    usage BLOB,
    PRIMARY KEY (run_id, number)
)""",
    """
CREATE TABLE reruns (
    session_id TEXT PRIMARY KEY,
    planned_at TEXT NOT NULL,
    workflow BLOB NOT NULL
)""",
)
RUNNER_TRANSITIONS = "machine NOT IN ('run', 'session', 'workflow')"
"""Selects the transitions that belong to no run or session. A query uses the index only if it has the same text."""
RUNNER_TRANSITIONS_INDEX = f"CREATE INDEX transitions_of_no_subject ON transitions (at) WHERE {RUNNER_TRANSITIONS}"
# The writer numbers the transitions, so that `sessions.after_seq` can tell one life of a session from the next. The
# same holds for message ids; AUTOINCREMENT remembers the greatest id, also that of a deleted row.
_STATEMENTS = (
    """
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
    reason TEXT NOT NULL,
    provisional INTEGER NOT NULL DEFAULT 0
)""",
    "CREATE INDEX transitions_by_subject ON transitions (machine, subject)",
    RUNNER_TRANSITIONS_INDEX,
    """
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
    ended_at TEXT,
    usage BLOB,
    wait BLOB,
    workspace BLOB
)""",
    "CREATE INDEX runs_by_end ON runs (ended_at)",
    "CREATE INDEX runs_by_session ON runs (session_id)",
    """
CREATE TABLE sessions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL UNIQUE,
    runner_id TEXT NOT NULL,
    began_at TEXT NOT NULL,
    after_seq INTEGER NOT NULL,
    run BLOB NOT NULL,
    ended_at TEXT
)""",
    "CREATE INDEX sessions_by_end ON sessions (ended_at)",
    PROCESSES_TABLE,
    TREE_SESSIONS_TABLE,
    *TREE_SESSIONS_INDICES,
    *WORKFLOWS_TABLES,
    """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    content BLOB NOT NULL
)""",
)


def version_of(connection: sqlite3.Connection, name: str) -> int:
    """Return the schema version; 0 for an empty file. Raises `UsageError`, which names the file, if it is not ours."""
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


@contextmanager
def transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    """Execute all statements of the block, or none."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        # A failed COMMIT may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def create_tables(connection: sqlite3.Connection) -> None:
    with transaction(connection, "EXCLUSIVE"):
        for statement in _STATEMENTS:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
