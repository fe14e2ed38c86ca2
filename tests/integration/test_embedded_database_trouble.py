"""A coordinator whose database is unavailable reports this, loses no accepted data, and recovers by itself."""

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_server.http.responses import status_of
from fsm_runner.coordinator_server.store.sqlite import worker
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.database_errors import DatabaseUnavailable, unavailable
from fsm_runner.coordinator_server.store.sqlite.migrations import SCHEMA_VERSION
from fsm_runner.coordinator_server.timings import Timings
from tests.support.embedded import ECHO_AGENT, Clock, EmbeddedCoordinator, embedded_coordinator, registration
from tests.support.logs import log_lines
from tests.support.small_disk import needs_mount, small_disk
from tests.support.watch import PATIENCE_S

LARGE_TEXT = "x" * 100_000
HELD: list[sqlite3.Connection] = []
"""Open connections that lock a file during a test."""


async def health(coordinator: EmbeddedCoordinator) -> tuple[int, str]:
    answer = await coordinator.http.get("/health")
    return answer.status_code, answer.json()["status"]


async def have_failed(coordinator: EmbeddedCoordinator, *runs: dict[str, Any]) -> None:
    """Return when the coordinator has closed these runs, which its next sweep does."""
    async with asyncio.timeout(PATIENCE_S):
        while {await coordinator.run_status(run) for run in runs} != {"failed"}:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)


async def sent(coordinator: EmbeddedCoordinator, text: str = LARGE_TEXT) -> httpx.Response:
    body = {"type": "start_session", "agent_name": "echo", "parameters": {"message": text}}
    return await coordinator.http.post("/runs", json=body)


@pytest.fixture
def recovers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first success is logged as the recovery."""
    monkeypatch.setattr(worker, "RECOVERED_AFTER_S", 0.0)


@needs_mount
@pytest.mark.usefixtures("recovers_at_once")
async def test_a_full_disk_is_a_507_is_logged_once_and_ends_with_free_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, log_lines() as lines:
        async with embedded_coordinator(database=disk.path / "runs.sqlite") as coordinator:
            runner_id = await coordinator.register()
            run = await coordinator.submit()
            assert await health(coordinator) == (200, "healthy")
            disk.fill()
            for _ in range(5):
                refused = await sent(coordinator)
                assert refused.status_code == 507
                assert "disk is full: free some space" in refused.json()["detail"]
            assert await health(coordinator) == (503, "unhealthy")
            assert await coordinator.run_status(run) == "pending"  # reads still work
            disk.free()
            assert (await sent(coordinator)).status_code == 201
            assert await health(coordinator) == (200, "healthy")
            assert (await coordinator.claim(runner_id))["run_id"] == run["run_id"]
        said = [line for line in lines if "database" in line]
        assert len(said) == 2, said
        assert "disk is full: free some space" in said[0]
        assert "can be used again" in said[1]
        assert not [line for line in lines if "could not be answered" in line]


async def test_each_outage_of_the_database_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, away = tmp_path / "runs.sqlite", tmp_path / "away"
    with log_lines() as lines:
        async with embedded_coordinator(database=file) as coordinator:
            await coordinator.register()
            for recovered_after_s in (600.0, 600.0, 0.0, 0.0):
                monkeypatch.setattr(worker, "RECOVERED_AFTER_S", recovered_after_s)
                file.rename(away)
                assert (await sent(coordinator)).status_code == 503
                away.rename(file)
                assert (await sent(coordinator)).status_code == 201
    said = ["again" if "can be used again" in line else "trouble" for line in lines if "database" in line]
    # The first two count as one outage: on a nearly full disk, some writes fail and others succeed.
    assert said == ["trouble", "again", "trouble", "again"]


@needs_mount
@pytest.mark.usefixtures("recovers_at_once")
async def test_a_full_disk_and_its_end_are_noticed_without_a_request(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, log_lines() as lines:
        timings = Timings(sweep_interval_s=0.01)
        async with embedded_coordinator(timings, database=disk.path / "runs.sqlite"):
            disk.fill()
            await until(lambda: any("disk is full" in line for line in lines))
            disk.free()
            await until(lambda: any("can be used again" in line for line in lines))


@needs_mount
async def test_runs_of_a_runner_that_leaves_during_an_outage_are_closed_later(tmp_path: Path) -> None:
    clock = Clock()
    with small_disk(tmp_path / "disk") as disk:
        timings = Timings(sweep_interval_s=0.01)
        async with embedded_coordinator(timings, database=disk.path / "runs.sqlite", clock=clock) as coordinator:
            runner_id = await coordinator.register()
            run = await coordinator.submit()
            await coordinator.claim(runner_id)
            disk.fill()
            while (await sent(coordinator)).status_code == 201:  # the database's log has some space at first
                pass
            left = await coordinator.http.delete(f"/runners/{runner_id}", params={"self": "true"})
            disk.free()
            assert left.status_code in (200, 507)
            await have_failed(coordinator, run)


async def test_runs_of_all_runners_that_expire_during_an_outage_are_closed_later(
    tmp_path: Path,
) -> None:
    file, aside, clock = tmp_path / "runs.sqlite", tmp_path / "aside", Clock()
    timings = Timings(sweep_interval_s=0.01)
    async with embedded_coordinator(timings, database=file, clock=clock) as coordinator:
        runs = []
        for hostname in ("one", "two"):
            runner_id = await coordinator.register(hostname=hostname, agents=[{**ECHO_AGENT, "name": hostname}])
            runs.append(await coordinator.submit(agent_name=hostname))
            await coordinator.claim(runner_id)
        file.rename(aside)
        clock.now_s += timings.removed_after_s + 1
        await coordinator.http.get("/runners")  # expires them, if the sweep has not
        aside.rename(file)
        await have_failed(coordinator, *runs)


def put_another_there(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"")


def delete_the_folder(file: Path) -> None:
    shutil.rmtree(file.parent)


def delete_the_log(file: Path) -> None:
    file.with_name(f"{file.name}-wal").unlink()


@pytest.mark.parametrize("harm", [Path.unlink, put_another_there, delete_the_folder, delete_the_log])
async def test_a_deleted_database_gets_no_writes_and_is_logged_once(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    file = tmp_path / "folder" / "runs.sqlite"
    file.parent.mkdir()
    with log_lines() as lines:
        async with embedded_coordinator(database=file) as coordinator:
            await coordinator.register()
            run = await coordinator.submit()
            harm(file)
            assert await health(coordinator) == (503, "unhealthy")
            for _ in range(3):
                refused = await sent(coordinator, "hello")
                assert refused.status_code == 503
                assert "deleted or replaced" in refused.json()["detail"]
            assert await coordinator.run_status(run) == "pending"
    assert len([line for line in lines if "deleted or replaced" in line]) == 1


async def test_a_database_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    file, aside = tmp_path / "runs.sqlite", tmp_path / "aside"
    async with embedded_coordinator(database=file) as coordinator:
        await coordinator.register()
        file.rename(aside)
        assert (await sent(coordinator, "hello")).status_code == 503
        aside.rename(file)
        assert (await sent(coordinator, "hello")).status_code == 201
        assert await health(coordinator) == (200, "healthy")


async def test_a_registration_that_failed_with_the_database_can_be_repeated(tmp_path: Path) -> None:
    file, aside = tmp_path / "runs.sqlite", tmp_path / "aside"
    async with embedded_coordinator(database=file) as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        await coordinator.http.delete(f"/runners/{runner_id}", params={"self": "true"})
        # The registration writes: the waiting run gets its new owner.
        file.rename(aside)
        assert (await coordinator.http.post("/runner/register", json=registration())).status_code == 503
        aside.rename(file)
        assert await coordinator.register() == runner_id


def read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{file}?mode=ro", uri=True)


def locked(file: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    HELD.append(holder)
    return sqlite3.connect(file, timeout=0)


def damaged(file: Path) -> sqlite3.Connection:
    size = file.stat().st_size
    with file.open("r+b") as content:
        content.seek(100)
        content.write(os.urandom(size - 100))
    return sqlite3.connect(file)


def no_database(file: Path) -> sqlite3.Connection:
    file.write_bytes(b"something else" * 1_000)
    return sqlite3.connect(file)


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        (read_only, "it cannot be written"),
        (locked, "another process has locked it"),
        (damaged, "it is damaged"),
        (no_database, "it is damaged"),
    ],
)
def test_each_reason_is_named_with_its_remedy(
    tmp_path: Path, opened: Callable[[Path], sqlite3.Connection], said: str
) -> None:
    file = tmp_path / "runs.sqlite"
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE t (x)")
    made.close()
    connection = opened(file)
    try:
        with pytest.raises(sqlite3.Error) as raised:
            connection.execute("INSERT INTO t VALUES (1)")
        error = unavailable(file, raised.value)
        assert error is not None
        assert str(error).startswith(f"the database {file} cannot be used: {said}")
        assert status_of(error) == 503
    finally:
        connection.close()
        while HELD:
            HELD.pop().close()


def test_a_defect_of_a_statement_does_not_make_the_database_unavailable(tmp_path: Path) -> None:
    database = Database(tmp_path / "runs.sqlite", time.time)
    with pytest.raises(sqlite3.OperationalError, match="no such table"), database.transaction():
        database.execute("SELECT * FROM nowhere")
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.execute("INSERT INTO runs (run_id) VALUES ('run_1')")
    database.check(by_writing=True)
    database.close()


def test_a_transaction_that_failed_to_roll_back_is_rolled_back_by_the_next_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "runs.sqlite", time.time)
    database.execute("BEGIN IMMEDIATE")
    database.execute("PRAGMA user_version=7")
    with database.transaction():
        assert database.row("PRAGMA user_version") is not None
    database.close()
    assert sqlite3.connect(tmp_path / "runs.sqlite").execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_database_in_memory_is_never_missing() -> None:
    database = Database(None, time.time)
    database.check(by_writing=True)
    assert not isinstance(unavailable(None, sqlite3.OperationalError("syntax")), DatabaseUnavailable)
    database.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():  # noqa: ASYNC110 - the log has no event for this
            await asyncio.sleep(0.01)
