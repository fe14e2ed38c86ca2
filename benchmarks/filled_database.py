"""A coordinator's database with many queued and finished runs, written directly."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.store.interface import ChangeEvent, DemandClass
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore

RUNNER = "rnr_history"
REQUEST = {
    "type": "start_session",
    "agent_name": None,
    "parameters": {"prompt": "hello"},
    "project_dir": None,
    "parent_session_id": None,
    "execution_mode": "sync",
    "scope": None,
    "resolved_agent_blueprint": None,
}
CACHE_KB = 400_000
FIRST_RANK = 1_700_000_000_000

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"
# As random as real ids, so that neighbouring runs are not neighbours in the index.
_ID = "printf('{}_%016x', n * 2654435761 % 4294967296)"
_TIME = "'2026-01-01T00:00:00.000000Z'"
_SESSIONS = f"""{_NUMBERS}
INSERT INTO sessions (session_id, status, execution_mode, created_at, last_run_ended_at)
SELECT {_ID.format("ses")}, :session_status, 'sync', {_TIME}, :ended_at FROM numbers"""
_RUNS = f"""{_NUMBERS}
INSERT INTO runs (seq, run_id, session_id, class_id, rank, status, runner_id, created_at, completed_at)
SELECT n + 1, {_ID.format("run")}, {_ID.format("ses")}, n % :classes + 1, :first_rank + n, :status, :runner_id, {_TIME},
    :ended_at FROM numbers"""
_REQUESTS = f"""{_NUMBERS}
INSERT INTO requests (seq, body) SELECT n + 1, :request FROM numbers"""
_EVENTS = f"""{_NUMBERS}
INSERT INTO events (session_id, event_type, timestamp, body)
SELECT {_ID.format("ses")}, 'run_completed', {_TIME}, :event FROM numbers"""


def ignore_changes(_: Sequence[ChangeEvent]) -> None:
    """There are no event streams."""


async def _create(file: Path) -> None:
    store = SqliteStore(file, ignore_changes)
    await store.open()
    await store.aclose()


def fill(file: Path, *, finished: int, queued: int, demands: Sequence[Demands]) -> None:
    """Create the file with this many runs. The queued ones have these demands in turn, and are the first to claim."""
    asyncio.run(_create(file))
    with sqlite3.connect(file) as database:
        for pragma in ("synchronous=OFF", f"cache_size=-{CACHE_KB}", "foreign_keys=OFF"):
            database.execute(f"PRAGMA {pragma}")
        # They would count each row by itself.
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        definitions = [msgspec.json.encode(DemandClass(demands=each)) for each in demands]
        database.executemany(
            "INSERT INTO classes (class_id, definition) VALUES (?, ?)", enumerate(definitions, start=1)
        )
        ended = {"status": "completed", "session_status": "finished", "runner_id": RUNNER, "ended_at": "2026-01-02"}
        waiting = {"status": "pending", "session_status": "pending", "runner_id": None, "ended_at": None}
        for first, count, state in ((0, finished, ended), (finished, queued, waiting)):
            values = {
                "first": first,
                "last": first + count - 1,
                "classes": len(demands),
                "first_rank": FIRST_RANK,
                "request": msgspec.json.encode(REQUEST),
                "event": b'{"event_type":"run_completed","session_id":"ses","timestamp":"2026-01-01T00:00:00.000000Z"}',
                **state,
            }
            for statement in (_SESSIONS, _RUNS, _REQUESTS, *([_EVENTS] if state is ended else [])):
                if count:
                    database.execute(statement, values)
        pending = "SELECT count(*) FROM runs WHERE status = 'pending' AND runs.class_id = classes.class_id"
        database.execute(f"UPDATE classes SET ready = ({pending})")
        for _, statement in triggers:
            database.execute(statement)
    database.close()
