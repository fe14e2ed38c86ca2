"""Databases of earlier releases, of later ones and of other programs."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.store.interface import RunFilter
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.migrations import SCHEMA_VERSION
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.errors import UsageError
from tests.support.stores import StoreUser, opened

FIXTURES = Path(__file__).parents[2] / "fixtures"
VERSIONS = (1, 2, 3)
"""A coordinator of each of these versions wrote a database, with runs of agents that its runner owns."""
OWNER = "rnr_9b29f68a0815"

KILLED_WHILE_MIGRATING = """
import os, signal, sys
from pathlib import Path
from fsm_runner.coordinator_server.store.sqlite import database, migrations

to_version_4 = migrations.MIGRATIONS[4]
def killed(connection):
    connection.execute("PRAGMA cache_size=4")  # so that the file itself has changed by then
    to_version_4(connection)
    os.kill(os.getpid(), signal.SIGKILL)
migrations.MIGRATIONS[4] = killed
database.Database(Path(sys.argv[1]), lambda: 0.0)
"""


@pytest.fixture(params=VERSIONS)
def old_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "runs.sqlite"
    with closing(sqlite3.connect(file)) as older:
        older.executescript((FIXTURES / f"coordinator_version_{request.param}" / "sessions.sql").read_text())
    return file


def rows_of(file: Path, statement: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(file)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(statement)]


def dump_of(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as database:
        return [*database.iterdump(), str(database.execute("PRAGMA user_version").fetchone())]


def schema_of(file: Path) -> list[object]:
    """Return the columns of each table, and the text of each index and trigger."""
    parts = rows_of(file, "SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
    return [
        (part["name"], rows_of(file, f"PRAGMA table_info({part['name']})") if part["type"] == "table" else part["sql"])
        for part in parts
    ]


def store_in(file: Path) -> Any:
    return opened(lambda publish, now_s: SqliteStore(file, publish, now_s))


def old_runs(file: Path) -> list[dict[str, Any]]:
    """Return the fields that lists show of the runs of an older database."""
    runs = []
    for row in rows_of(file, "SELECT * FROM runs ORDER BY seq"):
        shown = {name: value for name, value in row.items() if name not in ("seq", "decision", "decided", "request")}
        demands = msgspec.json.decode(row["demands"], type=Demands).as_json()
        runs.append({**shown, **msgspec.json.decode(row["request"]), "demands": demands, "attempt": 1})
    return runs


async def test_an_older_database_keeps_its_data(old_file: Path) -> None:
    runs, sessions = old_runs(old_file), rows_of(old_file, "SELECT * FROM sessions")
    events = rows_of(old_file, "SELECT * FROM events ORDER BY timestamp, seq")
    for _ in range(2):  # the second time, it is a database of this version
        async with store_in(old_file) as user:
            assert (await user.store.runs(RunFilter(), None)).items == runs
            for session in sessions:
                kept = await user.store.session(session["session_id"])
                assert kept.items() >= {name: session[name] for name in ("status", "created_at", "hostname")}.items()
                assert ("limit" in kept) == (session.get("provider_limit") is not None)
                bodies = [bytes(event) for event in await user.store.session_events(session["session_id"])]
                assert bodies == [event["body"] for event in events if event["session_id"] == session["session_id"]]
    assert rows_of(old_file, "PRAGMA user_version") == [{"user_version": SCHEMA_VERSION}]


async def test_the_pending_runs_of_an_older_database_are_claimed_in_their_order(old_file: Path) -> None:
    pending = rows_of(old_file, "SELECT * FROM runs WHERE status = 'pending' ORDER BY seq")
    async with store_in(old_file) as user:
        ready = await user.store.tick()
        owned = [class_id for class_id, each in ready.items() if each.demands.owned_agent == "echo"]
        (owned_run,) = [run for run in pending if msgspec.json.decode(run["request"])["agent_name"] == "echo"]
        # Any runner with an agent of the name may have it, not only the one that owned it.
        assert len(owned) == 1
        assert ready[owned[0]].demands.runner_id is None
        for run in pending:
            claimed = await user.claimed("new", class_ids=list(ready))
            assert claimed.run_id == run["run_id"]
            assert (claimed.class_id in owned) == (run == owned_run)
        assert await user.store.tick() == {}


async def test_a_pending_resume_of_an_older_database_waits_for_the_runner_of_its_executor(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    with closing(sqlite3.connect(file)) as older:
        older.executescript((FIXTURES / "coordinator_version_3" / "sessions.sql").read_text())
    async with store_in(file) as user:
        demands = [each.demands for each in (await user.store.tick()).values()]
        (resume,) = [each for each in demands if each.runner_id is not None]
        assert (resume.hostname, resume.owned_agent) == ("second", None)


async def test_the_held_runs_of_an_older_database_are_counted_and_can_be_reported(old_file: Path) -> None:
    held = rows_of(old_file, "SELECT * FROM runs WHERE status IN ('claimed', 'running', 'stopping')")
    assert held
    async with store_in(old_file) as user:
        assert sum(entry.claimed + entry.running for entry in await user.store.queue({})) == len(held)
        await user.register(OWNER)
        assert await user.store.untold_claim(OWNER) is None
        for run in held:
            await user.store.report_completed(run["run_id"], user.reporter(OWNER), "finished")
        assert sum(entry.claimed + entry.running for entry in await user.store.queue({})) == 0


async def test_the_ended_sessions_of_an_older_database_are_deleted_in_time(old_file: Path) -> None:
    ended = rows_of(old_file, "SELECT * FROM sessions WHERE status IN ('finished', 'failed', 'stopped')")
    async with store_in(old_file) as user:
        count = len((await user.store.sessions(None)).items)
        user.now_s += 10 * 365 * 86_400
        while await user.store.prune(1, 100):
            pass
        assert len((await user.store.sessions(None)).items) == count - len(ended)


async def test_a_decision_of_an_older_database_is_still_delivered(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    with closing(sqlite3.connect(file)) as older:
        older.executescript((FIXTURES / "coordinator_version_3" / "sessions.sql").read_text())
    async with store_in(file) as user:
        (decision,) = await user.store.undelivered_decisions()
        assert (decision.visit, decision.runner_id) == (2, OWNER)


def test_a_migrated_database_has_the_schema_of_a_new_one(old_file: Path, tmp_path: Path) -> None:
    new_file = tmp_path / "new.sqlite"
    for file in (old_file, new_file):
        Database(file, lambda: 0.0).close()
    assert schema_of(old_file) == schema_of(new_file)
    for check in ("foreign_key_check", "integrity_check"):
        assert rows_of(old_file, f"PRAGMA {check}") == rows_of(new_file, f"PRAGMA {check}")


def test_a_migration_that_is_killed_changes_nothing(old_file: Path) -> None:
    before = dump_of(old_file)
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_MIGRATING, old_file], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert old_file.with_name("runs.sqlite-journal").stat().st_size > 0
    assert dump_of(old_file) == before
    Database(old_file, lambda: 0.0).close()
    assert rows_of(old_file, "PRAGMA user_version") == [{"user_version": SCHEMA_VERSION}]


async def test_the_deletion_of_the_log_is_noticed_after_a_migration_too(old_file: Path) -> None:
    async with store_in(old_file) as user:
        old_file.with_name("runs.sqlite-wal").unlink()
        assert isinstance(await user.store.check(), Unavailable)


def test_a_migration_that_fails_changes_nothing(old_file: Path) -> None:
    with closing(sqlite3.connect(old_file)) as older:
        older.execute("UPDATE runs SET created_at = 'no time' WHERE seq = 2")
        older.commit()
    before = dump_of(old_file)
    with pytest.raises(UsageError, match=r"runs\.sqlite: cannot be used as the coordinator's database: "):
        Database(old_file, lambda: 0.0)
    assert dump_of(old_file) == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            f"PRAGMA user_version={SCHEMA_VERSION + 1}",
            rf"newer release of fsm-runner \(database version {SCHEMA_VERSION + 1}; this release has {SCHEMA_VERSION}",
        ),
        ("CREATE TABLE others (name TEXT)", r"not a database of this coordinator"),
        ("PRAGMA user_version=-1", r"not a database of this coordinator"),
    ],
)
async def test_a_database_of_another_program_or_a_newer_release_is_refused(
    tmp_path: Path, statement: str, said: str
) -> None:
    file = tmp_path / "runs.sqlite"
    with closing(sqlite3.connect(file)) as other:
        other.execute(statement)
        other.commit()
    before = dump_of(file)
    with pytest.raises(UsageError, match=rf"runs\.sqlite: it .*{said}"):
        await StoreUser(lambda publish, now_s: SqliteStore(file, publish, now_s)).store.open()
    assert dump_of(file) == before
