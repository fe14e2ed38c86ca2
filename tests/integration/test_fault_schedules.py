"""Fifty runs at a time, while the coordinator is killed and its answers are lost, late, or given twice.

`FAULT_SEED=n` replays the schedule that failed; `FAULT_SCHEDULES=n` says how many there are.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import Run, RunCreated
from fsm_runner.util.retry import RetryPolicy
from tests.support.coordinated_home import write_coordinated_home
from tests.support.ends import all_reported_ends
from tests.support.proxy import REPORT, FaultProxy
from tests.support.runner import FAST, RunningRunner, System
from tests.support.schedules import Cut, Disturbance, Killed, Plan, Schedule, Spoiled, spoil, until

pytestmark = pytest.mark.slow

SEED = os.environ.get("FAULT_SEED")
SEEDS = [int(SEED)] if SEED else range(int(os.environ.get("FAULT_SCHEDULES", "14")))

POLL_TIMEOUT_S = 0.3
HEARTBEAT_S = 0.2
TIMINGS = Timings(poll_timeout_s=POLL_TIMEOUT_S, heartbeat_interval_s=HEARTBEAT_S, stale_after_s=2 * HEARTBEAT_S)
PATIENT = msgspec.structs.replace(FAST, registration_conflict=RetryPolicy(base_s=0.01, cap_s=0.1, limit_s=20))
END_LIMIT_S = 120.0
"""Within this time of the last fault everything has ended; most of it is for a busy machine."""
LOOK_INTERVAL_S = 0.1

COUNTED = 'echo run >> "$2"; sleep "$4"'
AGENTS = {
    "completed": f'{COUNTED}; printf \'{{"done": "%s"}}\' "$2"',
    "failed": f"{COUNTED}; exit 3",
    "stopped": 'echo run >> "$2"; exec sleep 1000',
}
"""By how their runs end."""
STARTED = REPORT + "started"
BEFORE_STARTED = frozenset({"pending", "claimed"})
SESSION_ENDS = {"completed": "finished", "failed": "failed", "stopped": "stopped"}


class Submitted(msgspec.Struct, frozen=True):
    plan: Plan
    run: RunCreated
    count_file: Path

    @property
    def executions(self) -> int:
        return len(self.count_file.read_text().split()) if self.count_file.exists() else 0


class World:
    """A coordinator that goes and comes, and the runs that it is given."""

    def __init__(self, schedule: Schedule, system: System, runner: RunningRunner) -> None:
        self.schedule = schedule
        self.submitted: list[Submitted] = []
        self._asked_early: list[RunCreated] = []
        """Runs stopped before the coordinator knew that they had started."""
        self._system = system
        self._runner = runner
        self._is_up = asyncio.Lock()
        """Held by code that needs the coordinator, and while the coordinator is down."""

    async def live_through(self) -> None:
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(END_LIMIT_S), asyncio.TaskGroup() as group:
            for number, plan in enumerate(self.schedule.plans):
                group.create_task(self._submit(began_s, number, plan))
            for disturbance in self.schedule.disturbances:
                group.create_task(self._disturb(began_s, disturbance))
        self._system.proxy.heal()

    async def _submit(self, began_s: float, number: int, plan: Plan) -> None:
        await until(began_s, plan.submit_at_s)
        count_file = self._system.folder / f"count-{number}"
        async with self._is_up:
            run = await self._system.submit(plan.ending, count=str(count_file), lasts=f"{plan.lasts_s:.3f}")
        self.submitted.append(Submitted(plan, run, count_file))
        if plan.ending == "stopped":
            await until(began_s, plan.submit_at_s + plan.stop_after_s)
            async with self._is_up:
                if (await self._system.api.run(run.run_id)).status in BEFORE_STARTED:
                    self._asked_early.append(run)
                await self._ask_to_stop(run)

    async def _ask_to_stop(self, run: RunCreated) -> None:
        # One that has ended otherwise is found at the end.
        with suppress(Refused):
            await self._system.api.stop_run(run.run_id)

    async def _ask_again(self) -> None:
        """Repeat the stops that a later `started` overwrote, as a user does who sees the run still running.

        The contract (section 1.1) lets `started` put a run from `stopping` back to `running`. That happens to a stop
        that was asked for before `started`, and where the network delivered `started` a second time after the stop.
        """
        started_twice = {
            call.path.split("/")[3] for call in self._system.proxy.calls_for("POST", STARTED) if call.handed_on > 1
        }
        for each in self.submitted:
            run = each.run
            overwritten = run in self._asked_early or (each.plan.ending == "stopped" and run.run_id in started_twice)
            if overwritten and (await self._system.api.run(run.run_id)).status == "running":
                await self._ask_to_stop(run)

    async def _disturb(self, began_s: float, disturbance: Disturbance) -> None:
        await until(began_s, disturbance.at_s)
        match disturbance:
            case Spoiled():
                spoil(self._system.proxy, disturbance)
            case Cut():
                async with self._is_up:
                    await self._system.proxy.cut()
            case Killed():
                async with self._is_up:
                    await self._system.proxy.cut()
                    await self._system.server.stop()
                    await asyncio.sleep(disturbance.for_s)
                    await self._system.server.start()

    async def settled(self) -> None:
        """Return when every run has ended at the coordinator, and none is held at the runner."""
        try:
            async with asyncio.timeout(END_LIMIT_S):
                while await self._open():
                    await self._ask_again()
                    await asyncio.sleep(LOOK_INTERVAL_S)
        except TimeoutError:
            raise AssertionError("\n".join([f"{END_LIMIT_S:g} s later", *await self._open()])) from None

    async def _open(self) -> list[str]:
        ended = SESSION_ENDS.keys()
        listed = {run.run_id: run for run in await self._system.api.runs()}
        at_the_coordinator = [self._shown(run) for run in listed.values() if run.status not in ended]
        held = [f"held at the runner: {name}" for name in self._runner.actor._runs.run_ids]
        return [*at_the_coordinator, *held]

    def _shown(self, run: Run) -> str:
        calls = [call for call in self._system.proxy.calls if run.run_id in call.path or run.session_id in call.path]
        states = " → ".join(self._system.states[run.run_id])
        return "\n    ".join(
            [f"{run.run_id} {run.agent_name} is {run.status}; at the runner: {states}", *map(str, calls)]
        )

    async def defects(self) -> list[str]:
        listed = {run.run_id: run for run in await self._system.api.runs()}
        runs = [each.run for each in self.submitted]
        async with httpx.AsyncClient(base_url=self._system.server.url, trust_env=False) as http:
            ends = await all_reported_ends(http, runs)
        defects = []
        for each in self.submitted:
            run = listed[each.run.run_id]
            wrong = [
                *self._defects_of_end(each, run, ends[run.run_id]),
                *await self._defects_of_session(each, run),
                *_defects_of_executions(each),
            ]
            if wrong:
                defects.append("\n    ".join([*wrong, self._shown(run)]))
        return defects

    def _defects_of_end(self, submitted: Submitted, run: Run, ends: list[str]) -> list[str]:
        defects = []
        if run.status != submitted.plan.ending:
            defects.append(f"it is {run.status} ({run.error}), and should be {submitted.plan.ending}")
        if set(ends) != {run.status}:
            defects.append(f"it is {run.status}, and the reported ends are {ends}")
        calls = self._system.proxy.calls_for("POST", f"/runner/runs/{run.run_id}/{run.status}")
        doubled = sum(call.handed_on - 1 for call in calls if call.handed_on)
        if len(ends) > 1 + doubled:
            defects.append(f"its end was reported {len(ends)} times, of which the network duplicated {doubled}")
        return defects

    async def _defects_of_session(self, submitted: Submitted, run: Run) -> list[str]:
        status = await self._system.api.session_status(run.session_id)
        if status != SESSION_ENDS.get(run.status):
            return [f"its session is {status}"]
        if run.status != "completed":
            return []
        result = await self._system.result(submitted.run)
        return [] if result == {"done": str(submitted.count_file)} else [f"its result is {result}"]


def _defects_of_executions(submitted: Submitted) -> list[str]:
    executions = submitted.executions
    at_least = 0 if submitted.plan.ending == "stopped" else 1
    return [] if at_least <= executions <= 1 else [f"its command was carried out {executions} times"]


@asynccontextmanager
async def world(schedule: Schedule, folder: Path) -> AsyncIterator[World]:
    home = write_coordinated_home(folder, AGENTS)
    server = CoordinatorServer(
        port=0, database=folder / "coordinator.sqlite", agents_dir=folder / "agents", timings=TIMINGS
    )
    async with server:
        # It comes back at the address that it had.
        server._port = int(server.url.rpartition(":")[2])
        async with FaultProxy(server.url) as proxy, CoordinatorApi(server.url) as api:
            system = System(folder, server, proxy, api)
            overrides: dict[str, Any] = {"poll_timeout_s": POLL_TIMEOUT_S, "heartbeat_interval_s": HEARTBEAT_S}
            async with system.running(home, PATIENT, registers=True, state_dir=folder / "state", **overrides) as runner:
                yield World(schedule, system, runner)


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_run_ends_once_with_the_right_outcome_despite_all_faults(tmp_path: Path, seed: int) -> None:
    schedule = Schedule(seed)
    async with world(schedule, tmp_path) as here:
        try:
            await here.live_through()
            await here.settled()
            defects = await here.defects()
        except (AssertionError, TimeoutError) as error:
            defects = [str(error) or "the schedule itself came to no end"]
    assert not defects, "\n  ".join([str(schedule), *defects])
