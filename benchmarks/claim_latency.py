"""How long claims take beside many queued runs and a long history: in the store itself, and over HTTP."""

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import quantiles

import msgspec

from benchmarks.filled_database import REQUEST, ignore_changes
from benchmarks.plain_http import Connection, register
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.store.interface import (
    DemandClass,
    NewRun,
    NewSession,
    QueueOptions,
    Reporter,
    new_id,
)
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore

DEMANDS = [Demands(executor_type="autonomous", tags=(f"tag-{number}",)) for number in range(40)]
TAGS = [tag for each in DEMANDS for tag in each.tags]
CLAIMS = 500

Claim = Callable[[int], Awaitable[float]]
"""Queues a run of the class with this number, and claims the first of the queue. Returns the seconds of the claim."""


class Percentiles(msgspec.Struct, frozen=True):
    """In milliseconds."""

    p50: float
    p99: float

    def better(self, other: "Percentiles") -> "Percentiles":
        """Return the lower ones: interference by other programs only makes claims slower."""
        return Percentiles(min(self.p50, other.p50), min(self.p99, other.p99))


async def measured(claim: Claim) -> Percentiles:
    cuts = quantiles([1000 * await claim(number % len(DEMANDS)) for number in range(CLAIMS)], n=100)
    return Percentiles(cuts[49], cuts[98])


class StoreClaims:
    """Claims in the store, in this process."""

    def __init__(self, file: Path) -> None:
        self._store = SqliteStore(file, ignore_changes)
        self._class_ids: Sequence[int] = ()

    async def __aenter__(self) -> "StoreClaims":
        await self._store.open()
        for number in range(len(DEMANDS)):
            await self._create(number)
        self._class_ids = list(await self._store.tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()

    async def claim(self, number: int) -> float:
        await self._create(number)
        began = time.perf_counter()
        claimed = await self._store.claim("rnr_1", None, self._class_ids, {})
        taken_s = time.perf_counter() - began
        assert claimed is not None
        await self._store.report_completed(claimed.run_id, Reporter(runner_id="rnr_1"), "finished")
        return taken_s

    async def _create(self, number: int) -> None:
        session = NewSession(
            session_id=new_id("ses"), project_dir=None, agent_name=None, parent_session_id=None, execution_mode="sync"
        )
        demand_class = DemandClass(demands=DEMANDS[number])
        run = NewRun(
            session=session,
            parent_session_id=None,
            request=REQUEST,
            demand_class=demand_class,
            options=QueueOptions(),
        )
        await self._store.create_run(run)


class HttpClaims:
    """Polls of one runner at a coordinator."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner_id = ""

    async def __aenter__(self) -> "HttpClaims":
        self._connection = await Connection.open(self._url)
        self._runner_id = await register(self._connection, "claims", "claims", tags=TAGS)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.aclose()

    async def claim(self, number: int) -> float:
        demands = {"tags": DEMANDS[number].tags}
        run = {"type": "start_session", "parameters": {"prompt": "hello"}, "additional_demands": demands}
        await self._connection.call("POST", "/runs", run)
        began = time.perf_counter()
        response = await self._connection.call("GET", f"/runner/runs?runner_id={self._runner_id}")
        taken_s = time.perf_counter() - began
        report = {"runner_id": self._runner_id, "status": "success", "session_status": "finished"}
        await self._connection.call("POST", f"/runner/runs/{response['run']['run_id']}/completed", report)
        return taken_s
