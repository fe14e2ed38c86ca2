"""A store and its user: the suite in `tests/integration/store` runs with each implementation of `Store`."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import msgspec

from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.store.interface import (
    Author,
    ChangeEvent,
    ClaimedRun,
    CreatedRun,
    DemandClass,
    EventHead,
    NewRun,
    NewSession,
    Publish,
    QueueOptions,
    Reporter,
    RunFilter,
    Store,
)
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.protocol.event_clock import utc_text

NOON_S = 1_772_366_400.0
"""2026-03-01T12:00:00Z."""

NO_AUTHOR = Author()

OpenStore = Callable[[Publish, Callable[[], float]], Store]

IMPLEMENTATIONS: dict[str, OpenStore] = {"sqlite": lambda publish, now_s: SqliteStore(None, publish, now_s)}


class StoreUser:
    """A store with a clock that the test sets, and short calls for what most tests need."""

    def __init__(self, open_store: OpenStore) -> None:
        self.now_s = NOON_S
        self.changes: list[ChangeEvent] = []
        self.store = open_store(self._publish, lambda: self.now_s)
        self.registrations: dict[str, int] = {}
        self.classes: dict[int, DemandClass] = {}
        self._numbers = count(1)

    def _publish(self, changes: Sequence[ChangeEvent]) -> None:
        self.changes += changes

    def at(self, offset_s: float = 0) -> str:
        return utc_text(self.now_s + offset_s)

    async def register(self, runner_id: str) -> int:
        self.registrations[runner_id] = await self.store.new_registration(runner_id)
        return self.registrations[runner_id]

    def reporter(self, runner_id: str, attempt: int | None = None, *, fenced: bool = True) -> Reporter:
        registration = self.registrations[runner_id] if fenced else None
        return Reporter(runner_id=runner_id, registration=registration, attempt=attempt)

    def author(self, runner_id: str, run: Any, attempt: int | None = None) -> Author:
        return Author(run_id=run.run_id, registration=self.registrations[runner_id], attempt=attempt)

    async def submit(self, agent: str = "echo", **fields: Any) -> CreatedRun:
        """Submit a run. Fields of `NewRun`, `QueueOptions`, `DemandClass` and `Demands` are sorted by their names."""
        new = self.new_run(agent, **fields)
        created = await self.store.create_run(new)
        if created.class_id is not None:
            self.classes[created.class_id] = new.demand_class
        return created

    def new_run(self, agent: str = "echo", **fields: Any) -> NewRun:
        resumed = fields.pop("resumes", None)
        parent = fields.pop("parent", None)
        session_id = fields.pop("session_id", None) or f"ses_{next(self._numbers)}"
        demands = Demands(**_taken(fields, Demands))
        limited_agent = agent if fields.pop("limited", False) else None
        return NewRun(
            session=resumed
            or NewSession(
                session_id=session_id,
                project_dir="/work",
                agent_name=agent,
                parent_session_id=parent,
                execution_mode="sync",
            ),
            parent_session_id=parent,
            request={
                "type": "resume_session" if resumed else "start_session",
                "agent_name": agent,
                "parameters": {"message": "hello"},
                "parent_session_id": parent,
            },
            demand_class=DemandClass(demands=demands, limited_agent=limited_agent),
            options=QueueOptions(**_taken(fields, QueueOptions)),
            **fields,
        )

    async def claim(
        self,
        runner_id: str = "one",
        class_ids: Sequence[int] | None = None,
        *,
        fenced: bool = True,
        max_running: dict[str, int] | None = None,
    ) -> ClaimedRun | None:
        """Claim a run of these classes, by default of all."""
        if runner_id not in self.registrations:
            await self.register(runner_id)
        registration = self.registrations[runner_id] if fenced else None
        return await self.store.claim(
            runner_id, registration, list(self.classes) if class_ids is None else class_ids, max_running or {}
        )

    async def claimed(self, runner_id: str = "one", **named: Any) -> ClaimedRun:
        run = await self.claim(runner_id, **named)
        assert run is not None, "there is no run to claim"
        return run

    async def started(self, runner_id: str = "one", *, fenced: bool = True, **named: Any) -> ClaimedRun:
        """Claim a run, and report that it has started."""
        run = await self.claimed(runner_id, fenced=fenced, **named)
        await self.store.report_started(run.run_id, self.reporter(runner_id, fenced=fenced))
        return run

    async def completed(self, runner_id: str = "one", *, session_status: Any = "finished", **named: Any) -> ClaimedRun:
        run = await self.started(runner_id, **named)
        await self.store.report_completed(run.run_id, self.reporter(runner_id), session_status)
        return run

    async def event(self, session_id: str, author: Author = NO_AUTHOR, /, **fields: Any) -> None:
        head = {"event_type": "message", "session_id": session_id, "timestamp": self.at(), **fields}
        event = msgspec.convert(head, EventHead)
        await self.store.add_event(session_id, event, msgspec.json.encode(head), author)

    async def status(self, run: Any) -> str:
        return str((await self.store.run(run.run_id))["status"])

    async def statuses(self, run: Any) -> tuple[str, str]:
        """Return the statuses of the run and of its session."""
        fields = await self.store.run(run.run_id)
        return fields["status"], await self.store.session_status(fields["session_id"])

    async def events(self, session_id: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(event) for event in await self.store.session_events(session_id)]

    async def listed(self, **chosen: Any) -> list[str]:
        """Return the ids of the chosen runs, without a page."""
        return [run["run_id"] for run in (await self.store.runs(RunFilter(**chosen), None)).items]


def _taken(fields: dict[str, Any], form: type[msgspec.Struct]) -> dict[str, Any]:
    """Remove and return the fields of this Struct."""
    return {name: fields.pop(name) for name in form.__struct_fields__ if name in fields}


@asynccontextmanager
async def opened(open_store: OpenStore) -> AsyncIterator[StoreUser]:
    user = StoreUser(open_store)
    await user.store.open()
    try:
        yield user
    finally:
        await user.store.aclose()
