"""A SQLite store that is closed, opened again, or without its file."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.errors import UsageError
from tests.support.stores import OpenStore, opened


def in_file(file: Path) -> OpenStore:
    return lambda publish, now_s: SqliteStore(file, publish, now_s)


async def test_a_store_closes_after_the_operations_that_were_called_before(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    async with opened(in_file(file)) as user:
        calls = [asyncio.create_task(user.submit()) for _ in range(20)]
        await asyncio.sleep(0)
    runs = [await call for call in calls]
    async with opened(in_file(file)) as user:
        assert await user.listed() == [run.run_id for run in runs]


async def test_claims_and_registrations_survive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    async with opened(in_file(file)) as user:
        run = await user.submit(tags=("a",), not_before=user.at(60))
        claimed = await user.submit()
        await user.claimed()
        number = user.registrations["one"]
    async with opened(in_file(file)) as user:
        untold = await user.store.untold_claim("one")
        assert untold is not None
        assert untold.run_id == claimed.run_id
        user.registrations["one"] = number
        await user.store.report_started(claimed.run_id, user.reporter("one"))
        assert await user.register("two") > number
        user.now_s += 60
        ready = await user.store.tick()
        assert (await user.claimed("two", class_ids=list(ready))).run_id == run.run_id


async def test_a_write_without_the_file_is_refused_and_publishes_nothing(tmp_path: Path) -> None:
    file, aside = tmp_path / "runs.sqlite", tmp_path / "aside"
    async with opened(in_file(file)) as user:
        run = await user.submit()
        file.rename(aside)
        user.changes.clear()
        for call in (user.submit(), user.store.claim("one", None, list(user.classes), {})):
            with pytest.raises(Unavailable, match="deleted or replaced"):
                await call
        assert user.changes == []
        assert isinstance(await user.store.check(), Unavailable)
        assert await user.status(run) == "pending"  # reads still work
        aside.rename(file)
        assert await user.store.check() is None
        assert (await user.claimed()).run_id == run.run_id


async def test_a_class_is_deleted_with_its_last_run(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    async with opened(in_file(file)) as user:
        pruned, deleted, kept = [await user.submit(tags=(tag,)) for tag in "abc"]
        await user.completed(class_ids=[pruned.class_id])
        user.now_s += 2
        await user.store.prune(1, 100)
        twin = await user.submit(tags=("c",))
        for run in (deleted, twin):
            await user.store.delete_session(run.session_id)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT class_id FROM classes").fetchall() == [(kept.class_id,)]


async def test_a_database_is_used_by_one_store(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    async with opened(in_file(file)):
        with pytest.raises(UsageError, match=r"runs\.sqlite: the database is in use by another coordinator"):
            await SqliteStore(file, lambda _: None).open()
