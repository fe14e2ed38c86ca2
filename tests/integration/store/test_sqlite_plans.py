"""No statement reads the pending queue, the ended runs or the events as a whole, however many there are."""

import inspect
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_server.store.interface import Page, RunFilter, Store
from fsm_runner.coordinator_server.store.sqlite import lists
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.protocol.approvals import ApprovalRequest, DecisionRequest, WorkflowState
from tests.support.stores import StoreUser, opened

FILTERS = [
    {},
    *({"status": status} for status in ("pending", "claimed", "completed")),
    {"runner_id": "one"},
    {"agent_name": "echo"},
    {"tag": "a"},
    {"parent_session_id": "ses_1"},
    {"created_after": "2026-01-01T00:00:00Z"},
    {"tag": "a", "agent_name": "echo", "status": "failed", "runner_id": "one"},
]


async def use_everything(user: StoreUser) -> None:
    """Call each method of the store, with each kind of argument."""
    store = user.store
    await store.check()
    await store.repeated_run("k", b"")
    first = await user.submit(tags=("a",), idempotency_key="k", queue_ttl_seconds=1, retry_lost=1)
    await user.submit(limited=True, not_before=user.at(2))
    user.now_s += 2
    await store.tick()
    await user.submit(resumes=first.session_id, parent="ses_1")
    run = await user.started(max_running={"echo": 1})
    author, reporter = user.author("one", run), user.reporter("one")
    await store.untold_claim("one")
    await store.note_told(run.run_id)
    await store.release(run.run_id)
    await user.event(run.run["session_id"], author, event_type="result", result_text="x")
    workflow = WorkflowState(
        name="w", state="s", since="then", visit=1, approval=ApprovalRequest(question="Merge?", visit=1)
    )
    await store.update_session(run.run["session_id"], author, workflow=msgspec.json.encode(workflow))
    await store.pending_approvals()
    decision = DecisionRequest(run_id=run.run_id, visit=1, approved=True, by="kim", at=user.at(), id="d")
    await store.add_decision(decision)
    await store.note_workflow(run.run["session_id"])
    await store.undelivered_decisions()
    await store.decision_outcome(decision)
    await store.stop_session(run.run["session_id"])
    await store.stopping_sessions("one")
    await store.holders()
    await store.report_stopped(run.run_id, reporter, "SIGTERM")
    await store.report_stopped(run.run_id, reporter, "SIGTERM")
    for fenced in (True, False):
        for retry_lost in (0, 1):
            await user.submit(retry_lost=retry_lost)
            await user.started("two", fenced=fenced)
        await store.close_runner("two", "gone")
    ended = await user.submit()
    held = await user.started()
    await user.event(held.run["session_id"], user.author("one", held), event_type="result", result_text="x")
    await store.report_completed(held.run_id, reporter, "idle")
    await store.session_result(held.run["session_id"])
    await store.report_session_end(held.run["session_id"], reporter, "finished")
    await user.claimed()
    failed = await user.submit()
    await store.stop_run(failed.run_id)
    await store.report_failed(failed.run_id, user.reporter("one", fenced=False), "error")
    await store.run(ended.run_id)
    await store.run_row(ended.run_id)
    await store.holding_run(ended.session_id)
    await store.session(ended.session_id)
    await store.session_status(ended.session_id)
    await store.session_events(ended.session_id)
    await store.queue({})
    for page in (None, Page(limit=2), Page(limit=2, after=3)):
        for chosen in FILTERS:
            await store.runs(RunFilter(**chosen), page)
        await store.sessions(page)
        await store.sessions(page, ended.session_id)
    await store.delete_session(failed.session_id)
    user.now_s += 10
    await store.prune(1, 2)
    await store.prune(1, 100)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[object, ...]]]:
    """Yield all statements that a database executes, with the values of one of their uses."""
    seen: dict[str, tuple[object, ...]] = {}
    execute, row = Database.execute, Database.row

    def recorded(method: Any) -> Any:
        def record(database: Database, statement: str, values: tuple[object, ...] = ()) -> Any:
            seen[statement] = values
            return method(database, statement, values)

        return record

    monkeypatch.setattr(Database, "execute", recorded(execute))
    monkeypatch.setattr(Database, "row", recorded(row))
    yield seen


async def test_every_statement_finds_its_rows_with_an_index(
    statements: dict[str, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = set()
    for name, method in inspect.getmembers(SqliteStore, inspect.iscoroutinefunction):

        def recording(store: SqliteStore, *values: Any, name: str = name, method: Any = method, **named: Any) -> Any:
            called.add(name)
            return method(store, *values, **named)

        monkeypatch.setattr(SqliteStore, name, recording)
    async with opened(lambda publish, now_s: SqliteStore(None, publish, now_s)) as user:
        await use_everything(user)
        database = user.store._worker._tables.database  # type: ignore[attr-defined]
        plans = {
            statement: [step["detail"] for step in explained(database._connection, statement, values)]
            for statement, values in statements.items()
        }
    assert called >= {name for name, _ in inspect.getmembers(Store, inspect.iscoroutinefunction)}
    assert len(plans) > 50
    for statement, plan in plans.items():
        text = f"{statement}\n" + "\n".join(plan)
        for table in ("runs", "requests", "events", "first", "runners"):
            assert not any(step.startswith(f"SCAN {table}") for step in plan), text
        # There may be as many classes as runs.
        has_bounds = "instr(definition" in statement or "USING INDEX classes_open" in text
        assert has_bounds or not any(step.startswith("SCAN classes") for step in plan), text
        # A bounded list reads the newest sessions by their number.
        assert "SCAN sessions" not in plan or "ORDER BY seq DESC LIMIT" in statement, text
        assert not any("AUTOMATIC" in step for step in plan), text
    claim = next(plan for statement, plan in plans.items() if "is_told = 0" in statement and "json_each" in statement)
    assert any("USING COVERING INDEX runs_ready" in step or "USING INDEX runs_ready" in step for step in claim)


def explained(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> list[sqlite3.Row]:
    return connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()


async def test_ended_runs_cost_the_indices_of_the_queue_nothing() -> None:
    async with opened(lambda publish, now_s: SqliteStore(None, publish, now_s)) as user:
        for _ in range(3):
            await user.submit(queue_ttl_seconds=60)
            await user.completed()
        database = user.store._worker._tables.database  # type: ignore[attr-defined]
        for index, condition in (
            ("runs_ready", "status = 'pending' AND waits_until_s IS NULL"),
            ("runs_expiring", "status = 'pending' AND expires_s IS NOT NULL"),
            ("runs_waiting", "status = 'pending' AND waits_until_s IS NOT NULL"),
            ("runs_open", "status IN ('pending', 'claimed', 'running', 'stopping')"),
        ):
            (entries,) = database._connection.execute(
                f"SELECT count(*) FROM runs INDEXED BY {index} WHERE {condition}"
            ).fetchone()
            assert entries == 0


async def test_a_list_reads_a_limited_number_of_runs_in_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "READ_AT_ONCE", 3)
    async with opened(lambda publish, now_s: SqliteStore(None, publish, now_s)) as user:
        rare = [await user.submit("echo", tags=("rare",)) for _ in range(2)]
        common = [await user.submit("echo") for _ in range(10)]
        for run in rare:
            await user.store.stop_run(run.run_id)
        chosen = RunFilter(agent_name="echo", status="stopped")
        first = await user.store.runs(chosen, Page(limit=5))
        assert (first.items, first.next) == ([], 10)
        # Without a page, the list is complete.
        assert await user.listed(agent_name="echo", status="stopped") == [run.run_id for run in rare]
        assert await user.listed(tag="rare") == [run.run_id for run in rare]
        monkeypatch.setattr(lists, "RANGES_AT_ONCE", 0)  # as if the tag had more classes
        assert await user.listed(tag="rare") == [run.run_id for run in rare]
        assert await user.listed() == [run.run_id for run in (*rare, *common)]
