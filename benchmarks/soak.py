"""A runner at work for a long time, among all kinds of faults: nothing may be lost, and nothing may grow.

    python -m benchmarks.soak [--runs 10000] [--seed N]

The runner is a process of its own with a journal on disk. Between it and a coordinator answers are lost, delayed and
replaced, connections are reset, and the coordinator is restarted. Commands fail, are stopped, and leave processes
behind. Each so many runs the runner is measured: the first third of the measurements is compared with the last. Exit
code 1 where something has grown, a run has no outcome or two, or a process is left. Linux only.
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

from benchmarks.soak_figures import Figures, Sample
from benchmarks.soak_line import Faults, FaultyLine
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import PROCEDURAL_COMMAND, Profile
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.protocol.wire import Agent, Run, RunRequest

IN_FLIGHT = 50
SAMPLES = 45
RESTARTS = 20
LONGEST_OUTAGE_S = 2.0
LOOK_EACH_S = 0.2
RUNS_LIMIT_S = 300.0
"""How long no run may end."""
REST_S = 3.0
"""After the last run, before the runner is measured at rest."""
TIMINGS = Timings(poll_timeout_s=5, heartbeat_interval_s=1)
LOG_LINES = 40
LEFT_BEHIND_S = 31_536_001
"""How long what a command leaves behind would stay. No other process sleeps for just as long."""

COMMANDS = {
    "work": "printf '{\"done\": true}'",
    "take-time": "sleep 1; echo '{}'",
    "fail": "echo 'it broke' >&2; exit 3",
    "linger": "exec sleep 300",
    "leave": f"setsid sleep {LEFT_BEHIND_S} & (sleep {LEFT_BEHIND_S} &) & echo '{{}}'",
    "flood": "head -c 200000 /dev/zero | tr '\\0' x",
}
"""Shell commands by the name of their agent. `linger` is stopped."""
SHARES = {"work": 35, "take-time": 25, "fail": 10, "linger": 5, "leave": 15, "flood": 10}
OUTCOMES = dict.fromkeys(COMMANDS, "completed") | {"fail": "failed", "linger": "stopped"}
OPEN = ("pending", "claimed", "running", "stopping")


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
    """One that is restarted at the same address, with what it has on disk."""

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


class Subject:
    """The runner that is measured."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self._folder = folder
        self._seen = psutil.Process(process.pid)

    async def sample(self) -> Sample:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        tasks = int(await self.process.stdout.readline())
        below = self._seen.children(recursive=True)
        return Sample(
            resident_mb=self._seen.memory_info().rss / 1e6,
            descriptors=self._seen.num_fds(),
            tasks=tasks,
            threads=self._seen.num_threads(),
            processes=len(below),
            zombies=sum(map(_is_zombie, below)),
            journal_mb=sum(each.stat().st_size for each in self._folder.glob("state/*/journal.sqlite*")) / 1e6,
        )


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def subject(url: str, folder: Path, runs: int) -> AsyncIterator[Subject]:
    command = [sys.executable, "-m", "benchmarks.soak_runner", url, str(folder), str(runs)]
    env = {**os.environ, HOME_VARIABLE: str(folder / "home")}
    pipe = asyncio.subprocess.PIPE
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env=env, stdin=pipe, stdout=pipe, stderr=log)
    try:
        yield Subject(process, folder)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


class Soak:
    """Keeps so many runs in flight, until all have been."""

    def __init__(self, runs: int, chance: random.Random, coordinator: Coordinator, runner: Subject) -> None:
        self.figures = Figures()
        self.agents: dict[str, str] = {}
        """Of each run that was submitted."""
        self._runs = runs
        self._chance = chance
        self._coordinator = coordinator
        self._runner = runner
        self._open: set[str] = set()
        self._stopped: set[str] = set()
        self._api = CoordinatorApi(coordinator.url)

    async def carry_out(self) -> None:
        ended, moved_at = 0, time.monotonic()
        sample_at, restart_at = 0, self._runs // RESTARTS
        async with self._api:
            while len(self.agents) < self._runs or self._open:
                await self._submit()
                await asyncio.sleep(LOOK_EACH_S)
                await self._look()
                if len(self.agents) - len(self._open) > ended:
                    ended, moved_at = len(self.agents) - len(self._open), time.monotonic()
                if time.monotonic() - moved_at > RUNS_LIMIT_S or self._runner.process.returncode is not None:
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
            except CoordinatorError:  # the runner that brings the agents has not registered anew yet
                return
            self.agents[created.run_id] = agent
            self._open.add(created.run_id)

    async def _look(self) -> None:
        found: list[Run] = []
        for status in OPEN:
            found += await self._api.runs(status)
        self._open.intersection_update({run.run_id for run in found})
        for run in found:
            if run.agent_name == "linger" and run.run_id not in self._stopped:
                self._stopped.add(run.run_id)
                with suppress(CoordinatorError):  # it has ended
                    await self._api.stop_run(run.run_id)

    async def _restart(self) -> None:
        await self._coordinator.stop()
        await asyncio.sleep(self._chance.uniform(0, LONGEST_OUTAGE_S))
        await self._coordinator.start()


async def soaked(runs: int, seed: int, folder: Path) -> bool:
    """Whether all is well."""
    chance = random.Random(seed)
    faults = Faults(chance)
    coordinator = Coordinator(folder / "coordinator.sqlite")
    for each in ("state", "project"):
        (folder / each).mkdir()
    make_home(folder / "home")
    await coordinator.start()
    async with FaultyLine(faults, coordinator.port) as line, subject(line.url, folder, runs) as runner:
        soak = Soak(runs, chance, coordinator, runner)
        await soak.carry_out()
        await asyncio.sleep(REST_S)
        if runner.process.returncode is None:
            soak.figures.at_rest = await runner.sample()
    verdicts = [soak.figures.show(), await show_runs(soak, faults, coordinator.url), show_left_behind()]
    await coordinator.stop()
    return all(verdicts)


async def show_runs(soak: Soak, faults: Faults, url: str) -> bool:
    """Print how the runs ended; whether each has one outcome, and the coordinator was told it once."""
    async with CoordinatorApi(url) as api:
        found = {run.run_id: run for run in await api.runs()}
    outcomes = Counter((agent, found[run_id].status) for run_id, agent in soak.agents.items())
    print(f"\n{len(soak.agents)} runs; faults: {dict(faults.injected)}, {RESTARTS} restarts of the coordinator")
    for (agent, status), count in sorted(outcomes.items()):
        print(
            f"     {agent:<14}{status:<12}{count:8}{'' if OUTCOMES[agent] == status else '  (not as its command ends)'}"
        )
    open_runs = [run_id for run_id in soak.agents if found[run_id].status in OPEN]
    repeated = {run_id: dict(kinds) for run_id, kinds in faults.carried_out.items() if kinds.total() > 1}
    print(f"{_mark(not open_runs)}  runs without an outcome: {len(open_runs)} {open_runs[:5]}")
    print(
        f"{_mark(not repeated)}  runs whose end was taken more than once: {len(repeated)} {list(repeated.items())[:5]}"
    )
    return not open_runs and not repeated


def show_left_behind() -> bool:
    """Print how many processes of commands are left; whether there are none."""
    left = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            left += process.cmdline()[-1:] == [str(LEFT_BEHIND_S)]
    print(f"{_mark(not left)}  processes left behind: {left}")
    return not left


def _mark(is_well: bool) -> str:
    return "ok " if is_well else "NOT"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    given = parser.parse_args()
    configure_logs(Redactor(), verbose=False, quiet=True)
    began = time.monotonic()
    print(f"{given.runs} runs, {IN_FLIGHT} in flight, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fsm-runner-soak-") as folder:
        is_well = asyncio.run(soaked(given.runs, given.seed, Path(folder)))
        if not is_well:
            print("\nthe end of the runner's log:")
            print("\n".join((Path(folder) / "log").read_text().splitlines()[-LOG_LINES:]))
    print(f"{_mark(is_well)}  after {time.monotonic() - began:.0f} s")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
