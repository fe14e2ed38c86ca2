"""`Store` in a SQLite database. Each method is one transaction in the store's thread, and returns after its end."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.coordinator_server.store.interface import (
    LIST_LIMIT,
    Author,
    ClaimedRun,
    Closed,
    CreatedRun,
    DemandClass,
    EventHead,
    Listed,
    NewRun,
    Page,
    Publish,
    QueueEntry,
    Reporter,
    RunFilter,
    RunRow,
    StopResult,
)
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.worker import StoreWorker
from fsm_runner.protocol.approvals import Decided, DecisionRequest, ListedApproval
from fsm_runner.protocol.statuses import HELD_RUN_STATUSES, CompletedSession
from fsm_runner.protocol.wire import JsonObject


class SqliteStore:
    """Implements `Store`."""

    def __init__(self, file: Path | None, publish: Publish, now_s: Callable[[], float] = time.time) -> None:
        """`file` None keeps the data in memory. `now_s` returns the Unix time."""
        self._file = file
        self._now_s = now_s
        self._worker = StoreWorker(publish)

    async def open(self) -> None:
        await self._worker.open(lambda: Database(self._file, self._now_s))

    async def aclose(self) -> None:
        await self._worker.close()

    async def check(self) -> Unavailable | None:
        return await self._worker.check()

    # Runners.

    async def new_registration(self, runner_id: str) -> int:
        return await self._worker.do(lambda tables: tables.new_registration(runner_id))

    async def close_runner(self, runner_id: str, reason: str, *, may_requeue: bool = True) -> Closed:
        return await self._worker.do(lambda tables: tables.departures.close(runner_id, reason, may_requeue=may_requeue))

    async def holders(self) -> list[str]:
        return await self._worker.do(lambda tables: tables.departures.holders())

    async def stopping_sessions(self, runner_id: str) -> list[str]:
        return await self._worker.do(lambda tables: tables.runs.stopping_sessions(runner_id))

    # The queue.

    async def create_run(self, run: NewRun) -> CreatedRun:
        return await self._worker.do(lambda tables: tables.queue.add(run))

    async def repeated_run(self, idempotency_key: str, digest: bytes) -> CreatedRun | None:
        return await self._worker.do(lambda tables: tables.queue.repeated(idempotency_key, digest))

    async def claim(
        self, runner_id: str, registration: int | None, class_ids: Sequence[int], max_running: Mapping[str, int]
    ) -> ClaimedRun | None:
        return await self._worker.do(lambda tables: tables.queue.claim(runner_id, registration, class_ids, max_running))

    async def untold_claim(self, runner_id: str) -> ClaimedRun | None:
        return await self._worker.do(lambda tables: tables.queue.untold_claim(runner_id))

    async def note_told(self, run_id: str) -> None:
        await self._worker.do(lambda tables: tables.queue.note_told(run_id))

    async def release(self, run_id: str) -> None:
        await self._worker.do(lambda tables: tables.queue.release(run_id))

    async def tick(self) -> Mapping[int, DemandClass]:
        """In several transactions, so that it delays no claim if many runs expire at once."""
        while await self._worker.do(lambda tables: tables.expire_some()):
            pass
        return await self._worker.do(lambda tables: tables.queue.admit_due())

    async def queue(self, max_running: Mapping[str, int]) -> list[QueueEntry]:
        return await self._worker.do(lambda tables: tables.classes.queue(max_running))

    async def prune(self, keep_s: float, most: int) -> int:
        return await self._worker.do(lambda tables: tables.retention.prune(keep_s, most))

    # Reports.

    async def report_started(self, run_id: str, reporter: Reporter) -> None:
        await self._worker.do(lambda tables: tables.reports.started(run_id, reporter))

    async def report_completed(self, run_id: str, reporter: Reporter, session_status: CompletedSession) -> RunRow:
        return await self._worker.do(lambda tables: tables.reports.completed(run_id, reporter, session_status))

    async def report_failed(self, run_id: str, reporter: Reporter, error: str) -> RunRow:
        return await self._worker.do(lambda tables: tables.reports.failed(run_id, reporter, error))

    async def report_stopped(self, run_id: str, reporter: Reporter, signal: str) -> RunRow:
        return await self._worker.do(lambda tables: tables.reports.stopped(run_id, reporter, signal))

    async def report_session_end(self, session_id: str, reporter: Reporter, status: str) -> None:
        await self._worker.do(lambda tables: tables.reports.session_ended(session_id, reporter, status))

    # Stops.

    async def stop_run(self, run_id: str) -> StopResult:
        return await self._worker.do(lambda tables: tables.stops.stop_run(run_id))

    async def stop_session(self, session_id: str) -> StopResult:
        return await self._worker.do(lambda tables: tables.stops.stop_session(session_id))

    # Runs and sessions.

    async def run(self, run_id: str) -> JsonObject:
        return await self._worker.do(lambda tables: tables.runs.get(run_id))

    async def run_row(self, run_id: str) -> RunRow:
        return await self._worker.do(lambda tables: tables.runs.row(run_id))

    async def runs(self, chosen: RunFilter, page: Page | None) -> Listed:
        """Without a page, in several transactions: a list of runs must not delay claims."""
        if page is not None:
            return await self._worker.do(lambda tables: tables.lists.page(chosen, page))
        is_complete = chosen.status in HELD_RUN_STATUSES
        items: list[JsonObject] = []
        next_page: Page | None = Page(limit=LIST_LIMIT)
        while next_page is not None and (is_complete or len(items) <= LIST_LIMIT):
            listed = await self.runs(chosen, next_page)
            items += listed.items
            next_page = None if listed.next is None else Page(limit=LIST_LIMIT, after=listed.next)
        is_truncated = not is_complete and len(items) > LIST_LIMIT
        if is_truncated:
            del items[LIST_LIMIT:]
        return Listed(items=items[::-1], is_truncated=is_truncated)

    async def holding_run(self, session_id: str) -> RunRow | None:
        return await self._worker.do(lambda tables: tables.runs.holding(session_id))

    async def session(self, session_id: str) -> JsonObject:
        return await self._worker.do(lambda tables: tables.sessions.get(session_id))

    async def sessions(self, page: Page | None, session_id: str | None = None) -> Listed:
        return await self._worker.do(lambda tables: tables.sessions.listed(page, session_id))

    async def session_status(self, session_id: str) -> str:
        return await self._worker.do(lambda tables: tables.sessions.status(session_id))

    async def session_result(self, session_id: str) -> JsonObject:
        return await self._worker.do(lambda tables: tables.events.result(session_id))

    async def session_events(self, session_id: str) -> list[msgspec.Raw]:
        return await self._worker.do(lambda tables: tables.events.of_session(session_id))

    async def add_event(self, session_id: str, event: EventHead, body: bytes, author: Author) -> None:
        await self._worker.do(lambda tables: tables.reports.add_event(session_id, event, body, author))

    async def update_session(self, session_id: str, author: Author, **fields: str | bytes | None) -> JsonObject:
        return await self._worker.do(lambda tables: tables.reports.update_session(session_id, author, **fields))

    async def delete_session(self, session_id: str) -> JsonObject:
        return await self._worker.do(lambda tables: tables.sessions.delete(session_id))

    # Approvals of workflows.

    async def pending_approvals(self) -> list[ListedApproval]:
        return await self._worker.do(lambda tables: tables.approvals.pending())

    async def add_decision(self, decision: DecisionRequest) -> DecisionRequest:
        return await self._worker.do(lambda tables: tables.approvals.add_decision(decision))

    async def note_workflow(self, session_id: str) -> None:
        await self._worker.do(lambda tables: tables.approvals.note_workflow(session_id))

    async def undelivered_decisions(self) -> list[DecisionRequest]:
        return await self._worker.do(lambda tables: tables.approvals.undelivered())

    async def decision_outcome(self, request: DecisionRequest) -> Decided | None:
        return await self._worker.do(lambda tables: tables.approvals.outcome(request))
