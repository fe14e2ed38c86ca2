"""A restarted coordinator waits as long for its runners as for silent ones (docs/coordinator.md, Storage)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_server.timings import Timings
from tests.support.embedded import (
    ECHO_AGENT,
    Clock,
    EmbeddedCoordinator,
    FencedRunner,
    embedded_coordinator,
    fenced_runner,
)
from tests.support.watch import PATIENCE_S

TIMINGS = Timings(sweep_interval_s=0.01)
REMOVED_S = TIMINGS.removed_after_s


class Bench:
    def __init__(self, folder: Path) -> None:
        self.database = folder / "runs.sqlite"
        self.clock = Clock()
        self._agents = folder / "agents"
        self._agents.mkdir()
        for name, fields in {"again": {"retry_lost": 1}, "once": {}}.items():
            (self._agents / f"{name}.json").write_text(json.dumps({**ECHO_AGENT, "name": name, **fields}))

    @asynccontextmanager
    async def coordinator(self) -> AsyncIterator[EmbeddedCoordinator]:
        async with embedded_coordinator(
            TIMINGS, clock=self.clock, database=self.database, agents_dir=self._agents
        ) as coordinator:
            yield coordinator

    async def runs(self) -> dict[str, dict[str, Any]]:
        """Return runs, by agent or status, that a runner started at an earlier process of the coordinator."""
        async with self.coordinator() as coordinator:
            runner = await owner(coordinator)
            runs = {}
            for name, agent in {"again": "again", "once": "once", "idle": "once", "stopping": "again"}.items():
                await coordinator.submit(agent_name=agent)
                runs[name] = await runner.claim()
                assert (await runner.report(runs[name], "started")).status_code == 200
            assert (await runner.report(runs["idle"], "completed", session_status="idle")).status_code == 200
        return runs


async def owner(coordinator: EmbeddedCoordinator) -> FencedRunner:
    """Register the runner that has the runs."""
    return await fenced_runner(coordinator, hostname="owner", agents=[])


async def statuses(coordinator: EmbeddedCoordinator, runs: dict[str, dict[str, Any]]) -> dict[str, str]:
    sessions = {name: (await coordinator.session(run))["status"] for name, run in runs.items() if name == "idle"}
    return {name: await coordinator.run_status(run) for name, run in runs.items()} | sessions


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


OPEN = {"again": "running", "once": "running", "idle": "idle", "stopping": "stopping"}
CLOSED = {"again": "pending", "once": "failed", "idle": "finished", "stopping": "failed"}


async def test_the_runs_of_a_runner_that_does_not_register_again_are_closed_in_time(bench: Bench) -> None:
    runs = await bench.runs()
    bench.clock.now_s += REMOVED_S / 2
    async with bench.coordinator() as coordinator:
        assert (await coordinator.http.post(f"/runs/{runs['stopping']['run_id']}/stop")).status_code == 200
        heir = await fenced_runner(coordinator, hostname="heir", agents=[])
        bench.clock.now_s += REMOVED_S
        await heir.heartbeat()
        assert await statuses(coordinator, runs) == OPEN
        bench.clock.now_s += 1
        await heir.heartbeat()
        assert await statuses(coordinator, runs) == CLOSED
        failed = (await coordinator.http.get(f"/runs/{runs['once']['run_id']}")).json()
        assert failed["error"] == "The runner was removed: it sent no heartbeat for too long"
        again = await heir.claim()
        assert (again["run_id"], again["attempt"]) == (runs["again"]["run_id"], 2)
        # It comes back after all.
        late = await owner(coordinator)
        assert (await late.poll()).json() == {"stop_sessions": [again["session_id"]]}
        assert (await late.report(runs["again"], "completed")).status_code == 409
        assert (await late.report(runs["once"], "completed")).status_code == 200
        assert await coordinator.run_status(runs["once"]) == "completed"


async def test_a_runner_that_registers_in_time_keeps_its_runs(bench: Bench) -> None:
    runs = await bench.runs()
    async with bench.coordinator() as coordinator:
        assert (await coordinator.http.post(f"/runs/{runs['stopping']['run_id']}/stop")).status_code == 200
        bench.clock.now_s += REMOVED_S
        runner = await owner(coordinator)
        bench.clock.now_s += REMOVED_S
        await runner.heartbeat()
        assert await statuses(coordinator, runs) == OPEN
        assert (await runner.poll()).json() == {"stop_sessions": [runs["stopping"]["session_id"]]}
        assert (await runner.report(runs["again"], "completed")).status_code == 200


async def test_the_runs_are_closed_later_if_the_database_is_unavailable_when_the_time_is_over(bench: Bench) -> None:
    runs = await bench.runs()
    del runs["stopping"]
    aside = bench.database.with_name("aside")
    async with bench.coordinator() as coordinator:
        bench.database.rename(aside)
        bench.clock.now_s += REMOVED_S + 1
        assert (await coordinator.http.get("/runners")).status_code == 503
        aside.rename(bench.database)
        expected = {name: status for name, status in CLOSED.items() if name in runs}
        async with asyncio.timeout(PATIENCE_S):
            while await statuses(coordinator, runs) != expected:  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(0.01)
