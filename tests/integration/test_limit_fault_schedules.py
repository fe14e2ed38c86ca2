"""Runs meet limits at random, while the coordinator is killed and its answers are lost, late, or given twice.

`FAULT_SEED=n` replays the schedule that failed; `LIMIT_FAULT_SCHEDULES=n` says how many there are.
"""

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.protocol.statuses import LIFECYCLES
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.control import provider_limits
from tests.integration.test_fault_schedules import HEARTBEAT_S, PATIENT, POLL_TIMEOUT_S, TIMINGS
from tests.support.ends import all_reported_ends
from tests.support.provider import Asked, Limits, Provider, Reply, Says, limited_home, provider
from tests.support.proxy import FaultProxy
from tests.support.runner import System
from tests.support.schedules import Cut, Killed, Schedule, Spoiled, spoil, until

pytestmark = pytest.mark.slow

SEED = os.environ.get("FAULT_SEED")
SEEDS = [int(SEED)] if SEED else range(int(os.environ.get("LIMIT_FAULT_SCHEDULES", "2")))
RUNS = 12
LIMITS_PER_SESSION = 2
LONGEST_LIMIT_S = 0.5
SHORT_WAIT_S = 0.05
END_LIMIT_S = 120.0


class RandomProvider(Provider):
    """Refuses some of the requests of each session."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)
        self.limits: dict[str, int] = {}

    def reply_to(self, asked: Asked) -> Reply:
        random, count = self._random, self.limits.get(asked.session_id, 0)
        if count == LIMITS_PER_SESSION or random.random() < 0.5:
            return Says()
        self.limits[asked.session_id] = count + 1
        return Limits(
            resets_in_s=random.choice((None, -1.0, random.uniform(0, LONGEST_LIMIT_S))),
            scope=random.choice(("credential", "session")),
            ends=random.choice(("limited", "exits", "exits_idle")),
        )

    def defects(self, run: RunCreated) -> list[str]:
        wanted = 1 + self.limits.get(run.session_id, 0)
        requests = sum(asked.session_id == run.session_id for asked in self.asked)
        return [] if requests == wanted else [f"it sent {requests} requests, and should have sent {wanted}"]


class World:
    """A coordinator that goes and comes, and the runs that it is given."""

    def __init__(self, schedule: Schedule, system: System, api: RandomProvider) -> None:
        self._schedule = schedule
        self._system = system
        self._api = api
        self._is_up = asyncio.Lock()
        """Held by code that needs the coordinator, and while the coordinator is down."""
        self.runs: list[RunCreated] = []

    async def live_through(self) -> None:
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(END_LIMIT_S), asyncio.TaskGroup() as group:
            for plan in self._schedule.plans[:RUNS]:
                group.create_task(self._submit(began_s, plan.submit_at_s))
            for disturbance in self._schedule.disturbances:
                group.create_task(self._disturb(began_s, disturbance))
        self._system.proxy.heal()

    async def _submit(self, began_s: float, at_s: float) -> None:
        await until(began_s, at_s)
        async with self._is_up:
            self.runs.append(await self._system.submit_prompt("hello"))

    async def _disturb(self, began_s: float, disturbance: Any) -> None:
        await until(began_s, disturbance.at_s)
        if isinstance(disturbance, Spoiled):
            spoil(self._system.proxy, disturbance)
            return
        async with self._is_up:
            await self._system.proxy.cut()
            if isinstance(disturbance, Killed):
                await self._system.server.stop()
                await asyncio.sleep(disturbance.for_s)
                await self._system.server.start()
            else:
                assert isinstance(disturbance, Cut)

    async def defects(self) -> list[str]:
        """Wait for the end of all runs, and return what is wrong with them."""
        async with asyncio.timeout(END_LIMIT_S):
            for run in self.runs:
                await self._system.end(run)
        async with httpx.AsyncClient(base_url=self._system.server.url, trust_env=False) as http:
            ends = await all_reported_ends(http, self.runs)
        defects = []
        for run in self.runs:
            status, error = (found := await self._system.api.run(run.run_id)).status, found.error
            wrong = self._api.defects(run)
            if status != "completed" or set(ends[run.run_id]) != {status}:
                wrong.append(f"it is {status} ({error}), and the reported ends are {ends[run.run_id]}")
            if wrong:
                states = " → ".join(self._system.states[run.run_id])
                defects.append("\n    ".join([f"{run.run_id}: {states}", *wrong]))
        return defects


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_run_that_meets_limits_completes_despite_all_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, lifecycle: str
) -> None:
    monkeypatch.setattr(provider_limits, "UNKNOWN_RESET_BASE_S", SHORT_WAIT_S)
    schedule, api = Schedule(seed), RandomProvider(seed)
    settings: dict[str, Any] = {"poll_timeout_s": POLL_TIMEOUT_S, "heartbeat_interval_s": HEARTBEAT_S}
    server = CoordinatorServer(port=0, database=tmp_path / "coordinator.sqlite", timings=TIMINGS)
    async with provider(api), server:
        # It comes back at the address that it had.
        server._port = int(server.url.rpartition(":")[2])
        policy = ProviderLimitPolicy(max_waits=2 * RUNS)
        home = limited_home(tmp_path / "home", api, lifecycle=lifecycle, revive=True, provider_limits=policy)
        async with FaultProxy(server.url) as proxy, CoordinatorApi(server.url) as coordinator:
            system = System(tmp_path, server, proxy, coordinator)
            async with system.running(home, PATIENT, state_dir=tmp_path / "state", **settings):
                world = World(schedule, system, api)
                await world.live_through()
                defects = await world.defects()
    assert not defects, "\n  ".join([str(schedule), *defects])
