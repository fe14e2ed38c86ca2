"""Runs a runner for a long time under faults: no run may be lost, and no resource may grow.

    python -m benchmarks.soak [--runs 10000] [--seed N]

The runner is a process of its own with a journal on disk. A proxy between it and the coordinator drops, delays and
replaces responses and resets connections, and the coordinator is restarted. Commands fail, are stopped, and leave
processes behind. The runner is sampled at regular intervals, and the last third of the samples is compared with the
first. The exit code is 1 if a resource has grown, a run has no or several outcomes, or a process is left. Linux only.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import psutil

from benchmarks.faulty_proxy import Faults, FaultyProxy
from benchmarks.soak_figures import Figures, Sample
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import PROCEDURAL_COMMAND, Profile
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.protocol.statuses import OPEN_RUN_STATUSES
from fsm_runner.protocol.wire import Agent, Run, RunRequest

IN_FLIGHT = 50
SAMPLES = 45
RESTARTS = 20
LONGEST_OUTAGE_S = 2.0
LOOK_INTERVAL_S = 0.2
RUNS_LIMIT_S = 300.0
"""The soak is aborted if no run ends for this long."""
REST_S = 3.0
"""The pause between the last run and the sample at rest."""
TIMINGS = Timings(poll_timeout_s=5, heartbeat_interval_s=1)
LOG_LINES = 40
LEFTOVER_SLEEP_S = 31_536_001
"""The sleep time of processes that commands leave behind. It identifies them, as no other process uses it."""

COMMANDS = {
    "work": "printf '{\"done\": true}'",
    "take-time": "sleep 1; echo '{}'",
    "fail": "echo 'it broke' >&2; exit 3",
    "linger": "exec sleep 300",
    "leave": f"setsid sleep {LEFTOVER_SLEEP_S} & (sleep {LEFTOVER_SLEEP_S} &) & echo '{{}}'",
    "flood": "head -c 200000 /dev/zero | tr '\\0' x",
}
"""Shell commands by agent name. The soak stops `linger`."""
SHARES = {"work": 35, "take-time": 25, "fail": 10, "linger": 5, "leave": 15, "flood": 10}
OUTCOMES = dict.fromkeys(COMMANDS, "completed") | {"fail": "failed", "linger": "stopped"}


def make_home(folder: Path) -> None:
    executor, agents = folder / Path(PROCEDURAL_COMMAND).parent, folder / "agents"
    for each in (executor / "commands", agents, folder / "profiles"):
        each.mkdir(parents=True)
    for name, script in COMMANDS.items():
        command = executor / "commands" / name
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        agent = Agent(name=name, command=f"commands/{name}", parameters_schema={"type": "object"})
        (agents / f"{name}.json").write_bytes(msgspec.json.encode(agent))
    profile = Profile(type="procedural", command=PROCEDURAL_COMMAND, agents_dir="agents")
    (folder / "profiles" / "soak.json").write_bytes(msgspec.json.encode(profile))


class Coordinator:
    """A coordinator that can be restarted with the same address and database."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._server = CoordinatorServer(port=0, database=database, timings=TIMINGS)
        self.port = 0

    async def start(self) -> None:
        self._server = CoordinatorServer(port=self.port, database=self._database, timings=TIMINGS)
        await self._server.start()
        self.port = int(self._server.url.rpartition(":")[2])

    async def stop(self) -> None:
        await self._server.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class MeasuredRunner:
    """The runner process that is sampled."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self._folder = folder
        self._process_info = psutil.Process(process.pid)

    async def sample(self) -> Sample:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        tasks = int(await self.process.stdout.readline())
        descendants = self._process_info.children(recursive=True)
        return Sample(
            resident_mb=self._process_info.memory_info().rss / 1e6,
            descriptors=self._process_info.num_fds(),
            tasks=tasks,
            threads=self._process_info.num_threads(),
            processes=len(descendants),
            zombies=sum(map(_is_zombie, descendants)),
            journal_mb=sum(each.stat().st_size for each in self._folder.glob("state/*/journal.sqlite*")) / 1e6,
        )


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def measured_runner(url: str, folder: Path, runs: int) -> AsyncIterator[MeasuredRunner]:
    command = [sys.executable, "-m", "benchmarks.soak_runner", url, str(folder), str(runs)]
    env = {**os.environ, HOME_VARIABLE: str(folder / "home")}
    pipe = asyncio.subprocess.PIPE
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env=env, stdin=pipe, stdout=pipe, stderr=log)
    try:
        yield MeasuredRunner(process, folder)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


class Soak:
    """Keeps `IN_FLIGHT` runs in flight until `runs` runs have ended."""

    def __init__(self, runs: int, chance: random.Random, coordinator: Coordinator, runner: MeasuredRunner) -> None:
        self.figures = Figures()
        self.agents: dict[str, str] = {}
        """The agent of each submitted run, by run id."""
        self._runs = runs
        self._chance = chance
        self._coordinator = coordinator
        self._runner = runner
        self._open: set[str] = set()
        self._stopped: set[str] = set()
        self._api = CoordinatorApi(coordinator.url)

    async def run(self) -> None:
        ended, progress_at = 0, time.monotonic()
        sample_at, restart_at = 0, self._runs // RESTARTS
        async with self._api:
            while len(self.agents) < self._runs or self._open:
                await self._submit()
                await asyncio.sleep(LOOK_INTERVAL_S)
                await self._check_runs()
                if len(self.agents) - len(self._open) > ended:
                    ended, progress_at = len(self.agents) - len(self._open), time.monotonic()
                if time.monotonic() - progress_at > RUNS_LIMIT_S or self._runner.process.returncode is not None:
                    return
                if ended >= sample_at:
                    self.figures.under_load.append(await self._runner.sample())
                    sample_at += max(1, self._runs // SAMPLES)
                if ended >= restart_at:
                    await self._restart()
                    restart_at += max(1, self._runs // RESTARTS)

    async def _submit(self) -> None:
        while len(self.agents) < self._runs and len(self._open) < IN_FLIGHT:
            (agent,) = self._chance.choices(list(SHARES), list(SHARES.values()))
            try:
                created = await self._api.create_run(RunRequest(type="start_session", parameters={}, agent_name=agent))
            except CoordinatorError:  # the runner that owns the agents has not registered again yet
                return
            self.agents[created.run_id] = agent
            self._open.add(created.run_id)

    async def _check_runs(self) -> None:
        found: list[Run] = []
        for status in OPEN_RUN_STATUSES:
            found += await self._api.runs(status)
        self._open.intersection_update({run.run_id for run in found})
        for run in found:
            if run.agent_name == "linger" and run.run_id not in self._stopped:
                self._stopped.add(run.run_id)
                with suppress(CoordinatorError):  # the run has ended
                    await self._api.stop_run(run.run_id)

    async def _restart(self) -> None:
        await self._coordinator.stop()
        await asyncio.sleep(self._chance.uniform(0, LONGEST_OUTAGE_S))
        await self._coordinator.start()


async def soak_passes(runs: int, seed: int, folder: Path) -> bool:
    chance = random.Random(seed)
    faults = Faults(chance)
    coordinator = Coordinator(folder / "coordinator.sqlite")
    for each in ("state", "project"):
        (folder / each).mkdir()
    make_home(folder / "home")
    await coordinator.start()
    async with FaultyProxy(faults, coordinator.port) as proxy, measured_runner(proxy.url, folder, runs) as runner:
        soak = Soak(runs, chance, coordinator, runner)
        await soak.run()
        await asyncio.sleep(REST_S)
        if runner.process.returncode is None:
            soak.figures.at_rest = await runner.sample()
    verdicts = [soak.figures.show(), await show_runs(soak, faults, coordinator.url), show_leftovers()]
    await coordinator.stop()
    return all(verdicts)


async def show_runs(soak: Soak, faults: Faults, url: str) -> bool:
    """Print the outcomes; return whether each run has one outcome, reported to the coordinator once."""
    async with CoordinatorApi(url) as api:
        found = {run.run_id: run for run in await api.runs()}
    outcomes = Counter((agent, found[run_id].status) for run_id, agent in soak.agents.items())
    print(f"\n{len(soak.agents)} runs; faults: {dict(faults.injected)}, {RESTARTS} restarts of the coordinator")
    for (agent, status), count in sorted(outcomes.items()):
        remark = "" if OUTCOMES[agent] == status else "  (differs from the end of its command)"
        print(f"     {agent:<14}{status:<12}{count:8}{remark}")
    open_runs = [run_id for run_id in soak.agents if found[run_id].status in OPEN_RUN_STATUSES]
    repeated = {run_id: dict(kinds) for run_id, kinds in faults.accepted_reports.items() if kinds.total() > 1}
    print(f"{_mark(not open_runs)}  runs without an outcome: {len(open_runs)} {open_runs[:5]}")
    print(
        f"{_mark(not repeated)}  runs with more than one accepted report: {len(repeated)} {list(repeated.items())[:5]}"
    )
    return not open_runs and not repeated


def show_leftovers() -> bool:
    """Print the number of processes that commands left behind; return whether there are none."""
    left = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            left += process.cmdline()[-1:] == [str(LEFTOVER_SLEEP_S)]
    print(f"{_mark(not left)}  processes left behind: {left}")
    return not left


def _mark(passed: bool) -> str:
    return "ok " if passed else "NOT"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    given = parser.parse_args()
    configure_logs(Redactor(), verbose=False, quiet=True)
    started_at = time.monotonic()
    print(f"{given.runs} runs, {IN_FLIGHT} in flight, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fsm-runner-soak-") as folder:
        passed = asyncio.run(soak_passes(given.runs, given.seed, Path(folder)))
        if not passed:
            print("\nthe end of the runner's log:")
            print("\n".join((Path(folder) / "log").read_text().splitlines()[-LOG_LINES:]))
    print(f"{_mark(passed)}  after {time.monotonic() - started_at:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
