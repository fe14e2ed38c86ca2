"""Measures the overhead of a run over its command.

    python -m benchmarks.overhead

The runner works as in production: with a journal on disk, and as the subreaper of its commands. Most figures are
relative to a floor that is measured in the same run: for runs, asyncio spawning and reaping the same command with
captured output; for `--help`, `import typer`. The exit code is 1 if a figure exceeds its bound.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.instant_coordinator import has_workflow
from benchmarks.waiting_workflows import WARM_UP
from fsm_runner.app.build import assembled_runner
from fsm_runner.config.paths import HOME_VARIABLE, bundled
from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.executors.environment import executor_environment
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.protocol.wire import Run
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run_context import Observer
from fsm_runner.util import event_loop

AGENT = "echo"
PARAMETERS = '{"message": "hello"}'
COMMAND = [str(bundled() / "executors/procedural/commands/echo"), "--message", "hello"]

ONE_BY_ONE = 150
AT_ONCE = 400
IN_FLIGHT = 50
ROUNDS = 5
TURNS = 400
ONE_TURN = """
name = "one-turn"
initial = "work"
budget = { max_wall_s = 3600 }

[states.work]
turn = {}
on_done = "completed"
"""
IDLE_S = 20.0
WAITING = 200
HELP_STARTS = 15


class Figure(msgspec.Struct, frozen=True):
    name: str
    value: float
    unit: str
    bound: str
    kept: bool

    def __str__(self) -> str:
        return f"{'ok ' if self.kept else 'NOT'}  {self.name:<58} {self.value:8.2f} {self.unit:<12} ({self.bound})"


class Stopwatch(Observer):
    """Measures each run from its claim to its acknowledged report, and the end of the last run."""

    def __init__(self, count: int) -> None:
        self.durations_s: dict[str, float] = {}
        """By run."""
        self.wait_until_empty = asyncio.Event()
        self.first_claim = self.last_end = 0.0
        self._count = count
        self._claimed: dict[str, float] = {}

    def entered(self, run: Run, state: str, *, final: bool) -> None:
        now = time.perf_counter()
        self.first_claim = self.first_claim or now
        self._claimed.setdefault(run.run_id, now)
        if final:
            assert state == "completed", state
            self.last_end = now
            self.durations_s[run.run_id] = now - self._claimed.pop(run.run_id)
            if len(self.durations_s) == self._count:
                self.wait_until_empty.set()


@asynccontextmanager
async def instant_coordinator(count: int, in_flight: int, *workflow: str) -> AsyncIterator[str]:
    """`workflow`: what half of the runs name; nothing if none names one."""
    module, counts = "benchmarks.instant_coordinator", (str(count), str(in_flight))
    command = [sys.executable, "-m", module, *counts, AGENT, PARAMETERS, *workflow]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


async def runner_durations(count: int, in_flight: int, *workflow: str) -> Stopwatch:
    watch = Stopwatch(count)
    with tempfile.TemporaryDirectory(prefix="fsm-runner-overhead-") as state_dir:
        config = RunnerConfig(project_dir=Path.cwd(), state_dir=Path(state_dir))
        async with (
            instant_coordinator(count, in_flight, *workflow) as url,
            assembled_runner(config, load_profile("echo"), url, observer=watch) as runner,
        ):
            runner_task = asyncio.create_task(runner.live())
            await watch.wait_until_empty.wait()
            runner.post("drain_requested")
            await runner_task
    return watch


async def floor_once(env: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    await process.communicate()
    assert process.returncode == 0


async def floor_durations(count: int) -> list[float]:
    env = executor_environment(os.environ)
    durations = []
    for _ in range(count):
        began = time.perf_counter()
        await floor_once(env)
        durations.append(time.perf_counter() - began)
    return durations


async def floor_rate(count: int, in_flight: int) -> float:
    env = executor_environment(os.environ)
    slots = asyncio.Semaphore(in_flight)

    async def one() -> None:
        async with slots:
            await floor_once(env)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count / (time.perf_counter() - began)


def latency() -> Figure:
    floor_s = statistics.median(asyncio.run(floor_durations(ONE_BY_ONE)))
    run_s = statistics.median(event_loop.run(runner_durations(ONE_BY_ONE, 1)).durations_s.values())
    ratio = run_s / floor_s
    return Figure("claim to acknowledged report, one run at a time, median", ratio, "x floor", "below 3", ratio < 3)


def throughput() -> Figure:
    """Return the median of several rounds, each with their own floor, because a machine's speed varies."""
    share = statistics.median(throughput_share() for _ in range(ROUNDS))
    return Figure(f"throughput with {IN_FLIGHT} in flight", share, "% of floor", "at least 50", share >= 50)


def throughput_share() -> float:
    floor = asyncio.run(floor_rate(AT_ONCE, IN_FLIGHT))
    watch = event_loop.run(runner_durations(AT_ONCE, IN_FLIGHT))
    return 100 * AT_ONCE / (watch.last_end - watch.first_claim) / floor


def one_turn() -> Figure:
    """Compare runs of a workflow with plain runs. They alternate, because a machine's speed varies."""
    with tempfile.TemporaryDirectory(prefix="fsm-runner-home-") as home:
        for folder in ("executors", "profiles"):
            (Path(home) / folder).symlink_to(bundled() / folder)
        (Path(home) / "workflows").mkdir()
        (Path(home) / "workflows/one-turn.toml").write_text(ONE_TURN)
        os.environ[HOME_VARIABLE] = home
        durations_s = event_loop.run(runner_durations(2 * TURNS, 1, "one-turn")).durations_s
        del os.environ[HOME_VARIABLE]
    plain_s, workflow_s = (
        statistics.median(value for run_id, value in durations_s.items() if has_workflow(run_id) is kind)
        for kind in (False, True)
    )
    overhead = 100 * (workflow_s / plain_s - 1)
    return Figure("a workflow of one turn, over a plain run", overhead, "%", "below 5", overhead < 5)


def transition() -> Figure:
    machine = load_machine("run")

    def life() -> None:
        model = machine.model()
        for event in ("accepted", "prepared", "executed", "reported"):
            machine.fire(model, event)

    micros = min(timeit.repeat(life, number=5_000, repeat=5)) / 5_000 / 4 * 1e6
    return Figure("a transition of the machine", micros, "µs", "below 15", micros < 15)


def help_start() -> Figure:
    def fastest(*command: str) -> float:
        def start() -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        return min(timeit.repeat(start, number=1, repeat=HELP_STARTS))

    floor_s = fastest(sys.executable, "-c", "import typer")
    ratio = fastest(sys.executable, "-m", "fsm_runner", "--help") / floor_s
    return Figure("fsm-runner --help", ratio, "x floor", "below 2 of `import typer`", ratio < 2)


async def idle() -> tuple[Figure, Figure]:
    """Measure a registered runner in its own process while it polls. Reads /proc, so this works on Linux only."""
    async with instant_coordinator(0, 1) as url:
        command = [sys.executable, "-m", "fsm_runner", "--profile", "echo", "-c", url]
        runner = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert runner.stderr is not None
        while b"online" not in await runner.stderr.readline():
            pass
        before_s = cpu_seconds(runner.pid)
        await asyncio.sleep(IDLE_S)
        share = 100 * (cpu_seconds(runner.pid) - before_s) / IDLE_S
        resident = resident_mb(runner.pid)
        runner.terminate()
        await runner.wait()
    return (
        Figure("idle, one core", share, "%", "below 0.5", share < 0.5),
        Figure("idle, resident memory", resident, "MB", "below 60", resident < 60),
    )


async def waiting_workflows() -> Figure:
    """Measure runs whose workflow waits for an approval, in a process of their own. Linux only."""
    async with instant_coordinator(WARM_UP + WAITING, WARM_UP + WAITING) as url:
        command = [sys.executable, "-m", "benchmarks.waiting_workflows", str(WAITING), url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        printed, _ = await process.communicate()
    each_kb = float(printed)
    return Figure(f"{WAITING} workflows that wait, each", each_kb, "KB", "at most 50", each_kb <= 50)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000


def use_own_interpreter() -> None:
    """Put the interpreter first in PATH. The command is a Python script, and the `python3` shims of version managers
    take so long that they would improve every ratio."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def main() -> int:
    configure_logs(Redactor(), verbose=False, quiet=True)
    use_own_interpreter()
    SUBREAPER.enable()
    figures = [latency(), throughput(), one_turn(), transition(), help_start()]
    if sys.platform == "linux":
        figures += [*asyncio.run(idle()), asyncio.run(waiting_workflows())]
    for figure in figures:
        print(figure)
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
