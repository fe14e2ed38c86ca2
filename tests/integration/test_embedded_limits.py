"""The field `limit` of a session, for which a run of the session waits, and databases of the release before it."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_server.store.sqlite.migrations import SCHEMA_VERSION
from tests.support.embedded import EmbeddedCoordinator, autonomous, embedded_coordinator

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "coordinator_version_1" / "sessions.sql"
"""A coordinator of the release with version 1 wrote this database: an idle, a running and a pending session."""
LIMIT = {"kind": "five_hour", "resets_at": "2026-03-01T15:00:00Z", "scope": "credential", "message": "Wait"}


async def patched(coordinator: EmbeddedCoordinator, run: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Change the session's fields, and return the session of the response."""
    answer = await coordinator.http.patch(f"/sessions/{run['session_id']}/metadata", json=fields)
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()["session"]
    return session


async def listed(coordinator: EmbeddedCoordinator) -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = (await coordinator.http.get("/sessions")).json()["sessions"]
    return sessions


async def streamed(lines: AsyncIterator[str]) -> dict[str, Any]:
    """Return the data of the next change of a session."""
    async for line in lines:
        if line.startswith("event: session_updated"):
            data: dict[str, Any] = json.loads((await anext(lines)).removeprefix("data: "))
            return data
    raise AssertionError("the stream has ended")


async def test_a_session_has_a_limit_while_one_is_set() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        run, other = await coordinator.submit(), await coordinator.submit()
        plain = await coordinator.session(run)
        assert "limit" not in plain
        async with coordinator.http.stream("GET", f"/sse/sessions?session_id={run['session_id']}") as stream:
            lines = stream.aiter_lines()
            limited = {**plain, "limit": LIMIT}
            assert await patched(coordinator, run, limit=LIMIT) == limited
            assert await coordinator.session(run) == limited
            assert await listed(coordinator) == [await coordinator.session(other), limited]
            assert (await streamed(lines))["session"] == limited
            # Absent, it stays; so do null fields beside it.
            changed = await patched(coordinator, run, executor_session_id="exe", last_resumed_at=None)
            assert changed == {**limited, "executor_session_id": "exe"}
            assert (await streamed(lines))["session"] == changed
            without = await patched(coordinator, run, limit=None)
            assert without == {**plain, "executor_session_id": "exe"}
            assert (await streamed(lines))["session"] == without
            assert await patched(coordinator, run, limit=None) == without


async def test_the_limit_because_of_which_a_run_failed_is_gone_when_the_next_run_of_its_session_starts() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register(**autonomous())
        await coordinator.prompt()
        run = await coordinator.claim(runner_id)
        await coordinator.report(run, "started", runner_id)
        await coordinator.bind(run)
        await patched(coordinator, run, limit=LIMIT)
        await coordinator.report(run, "failed", runner_id, error="the limit is reached")
        assert (await coordinator.session(run))["limit"] == LIMIT
        await coordinator.prompt(type="resume_session", session_id=run["session_id"])
        resume = await coordinator.claim(runner_id)
        await coordinator.report(resume, "started", runner_id)
        assert "limit" not in await coordinator.session(run)


@pytest.mark.parametrize("limit", ["five_hour", 5, True, [LIMIT]])
async def test_a_limit_that_is_no_object_is_refused(limit: Any) -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        run = await coordinator.submit()
        await patched(coordinator, run, limit=LIMIT)
        answer = await coordinator.http.patch(f"/sessions/{run['session_id']}/metadata", json={"limit": limit})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "limit"]
        assert (await coordinator.session(run))["limit"] == LIMIT


async def test_a_limit_of_an_unknown_session_is_not_found() -> None:
    async with embedded_coordinator() as coordinator:
        for limit in (LIMIT, None):
            answer = await coordinator.http.patch("/sessions/ses_unknown/metadata", json={"limit": limit})
            assert answer.status_code == 404


async def test_a_limit_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    async with embedded_coordinator(database=file) as coordinator:
        await coordinator.register()
        run = await coordinator.submit()
        await patched(coordinator, run, limit=LIMIT)
    async with embedded_coordinator(database=file) as coordinator:
        assert (await coordinator.session(run))["limit"] == LIMIT


async def test_a_database_of_version_1_is_migrated(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    with closing(sqlite3.connect(file)) as older:
        older.executescript(VERSION_1.read_text())
        older.row_factory = sqlite3.Row
        before = [dict(row) for row in older.execute("SELECT * FROM sessions ORDER BY seq DESC")]
    for _ in range(2):  # the second time, it is a database of this version
        async with embedded_coordinator(database=file) as coordinator:
            sessions = await listed(coordinator)
            assert sessions == [{name: value for name, value in row.items() if name != "seq"} for row in before]
            idle = sessions[-1]
            events = (await coordinator.http.get(f"/sessions/{idle['session_id']}/events")).json()["events"]
            assert [each["event_type"] for each in events] == ["message", "result", "run_start", "run_completed"]
            runs = (await coordinator.http.get("/runs")).json()["runs"]
            assert sorted(run["status"] for run in runs) == ["completed", "pending", "running"]
            assert (await patched(coordinator, idle, limit=LIMIT))["limit"] == LIMIT
            assert await patched(coordinator, idle, limit=None) == idle
    with closing(sqlite3.connect(file)) as migrated:
        assert migrated.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
