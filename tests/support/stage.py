"""One run or session, the coordinator that has it, and the runners that come to have it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import RunCreated, RunRequest
from tests.support.coordinated_home import PROFILE, SCRIPT
from tests.support.doomed_runner import NEVER, Point
from tests.support.durable import Durable, durable
from tests.support.nursery import Forked, Nursery
from tests.support.program import environment
from tests.support.proxy import TERMINAL_REPORT
from tests.support.runner import Bench, Waiter

TIMINGS = Timings(poll_timeout_s=5, heartbeat_interval_s=60, stale_after_s=0.01)
"""Without heartbeats each runner counts as stale, so that the next one is taken in; that changes nothing else."""
REGISTER = "/runner/register"
REFUSED = 404
TERMINAL = frozenset({"completed", "failed", "stopped"})
GRACE_S = "20"
SHOWN_LOG_LINES = 30
GATE_LINES = 8
"""More than a command is ever carried out."""

STAYING = "(sleep 1000 > /dev/null 2>&1 &)"
"""A process that does not end by itself, and whose parent is gone."""
COUNTED = f'{STAYING}; echo run >> "$2"; echo $$ > "$4"; read line < "$6"; printf \'{{"done": "%s"}}\' "$line"'
AGENTS = {
    "counted": COUNTED,
    "fails": f"{COUNTED}; exit 3",
    SCRIPT: COUNTED,
    "nothing": None,
}
"""`nothing` has nothing to start."""

Steps = list[list[Any]]
"""See `staged_executor`."""


class Stage:
    """`runs`: in the order of their submission; a further one is a further turn of the session."""

    def __init__(self, scenario: "Scenario", folder: Path, nursery: Nursery, desk: Bench, command: Waiter) -> None:
        self.scenario = scenario
        self.desk = desk
        self.proxy = desk.proxy
        self.command = command
        self.count_file = folder / "count"
        self.state_dir = folder / "state"
        self.released = asyncio.Event()
        """Of what the proxy holds."""
        self.runs: list[RunCreated] = []
        self.runner: Forked | None = None
        """The latest. Each is waited for before the next one begins."""
        self._folder = folder
        self._nursery = nursery
        self._registrations = 0
        """Before the latest runner."""

    @property
    def run(self) -> RunCreated:
        """The first."""
        return self.runs[0]

    async def submit(self) -> None:
        scenario = self.scenario
        if scenario.steps is None:
            parameters: dict[str, Any] = {"count": str(self.count_file), **self.command.parameters}
        else:
            parameters = {"steps": scenario.steps(self)}
        request = RunRequest(
            type="start_session", agent_name=scenario.agent, parameters=parameters, project_dir=scenario.project_dir
        )
        self.runs.append(await self.desk.api.create_run(request))

    async def resume(self, steps: Steps) -> None:
        request = RunRequest(type="resume_session", session_id=self.run.session_id, parameters={"steps": steps})
        self.runs.append(await self.desk.api.create_run(request))

    async def stop(self) -> None:
        await self.desk.api.stop_run(self.run.run_id)

    async def stop_session(self) -> None:
        async with httpx.AsyncClient(base_url=self.desk.server.url, trust_env=False) as http:
            (await http.post(f"/sessions/{self.run.session_id}/stop")).raise_for_status()

    def start(self, point: Point, *, doomed: bool) -> None:
        """`doomed`: with what is broken in the scenario."""
        flags = ("--profile", PROFILE, "--coordinator-url", self.proxy.url, "--state-dir", str(self.state_dir))
        arguments = [str(point or NEVER), *(self.scenario.broken if doomed else ()), "--", *flags]
        arguments += ["--grace-period", GRACE_S, "--verbose", "--external-mcp-url", "http://none", *self.scenario.flags]
        env = environment(self._folder.parent / "home")
        self._registrations = len(self.proxy.acknowledged("POST", REGISTER))
        cwd, log = self._folder / "project", self._folder / "log"
        self.runner = self._nursery.fork(arguments, cwd=cwd, env=env, log=log)

    async def status(self) -> str:
        """Of the first run."""
        return (await self.desk.api.run(self.run.run_id)).status

    async def in_status(self, status: str) -> None:
        async def is_in_it() -> bool:
            return await self.status() == status

        await self.proxy.wait_until(is_in_it, f"the run {status}")

    async def told(self) -> None:
        """Return when the coordinator has been told how the runs ended, and would not hear of it perhaps."""

        async def has_been_told() -> bool:
            if any(call.status == REFUSED for call in self.proxy.calls_for("POST", TERMINAL_REPORT)):
                return True
            statuses = [(await self.desk.api.run(run.run_id)).status for run in self.runs]
            return TERMINAL.issuperset(statuses)

        await self.proxy.wait_until(has_been_told, "the end of the runs")

    async def signal(self, *numbers: signal.Signals) -> None:
        # One that comes before the runner has registered may find nobody who hears it.
        await self.proxy.answered("POST", REGISTER, self._registrations + 1)
        assert self.runner is not None
        for number in numbers:
            await self.runner.signal(number)

    async def ended(self) -> int:
        """Of the latest runner: its exit code."""
        assert self.runner is not None
        return await self.runner.ended()

    async def leaves(self) -> int:
        """Of a runner that is asked to end: its exit code."""
        await self.signal(signal.SIGTERM)
        return await self.ended()

    def let_go(self) -> None:
        """Whatever holds the run up."""
        self.released.set()
        for _ in range(GATE_LINES):
            self.command.gate.write_line()

    @property
    def executions(self) -> int:
        return len(self.count_file.read_text().split()) if self.count_file.exists() else 0

    @property
    def log(self) -> list[str]:
        """The lines of all its runners."""
        file = self._folder / "log"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def durable(self) -> Durable:
        return durable(self.state_dir)

    def described(self) -> str:
        calls = [str(call) for call in self.proxy.calls]
        steps = [str(step) for step in self.durable.steps]
        return "\n  ".join(["calls:", *calls, "journal:", *steps, "log:", *self.log[-SHOWN_LOG_LINES:]])


Act = Callable[[Stage], Awaitable[None]]


async def nothing_more(stage: Stage) -> None:
    """The run comes to its end by itself."""
    stage.let_go()


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """How a run, a session or a runner comes to take certain transitions."""

    name: str
    agent: str = "counted"
    project_dir: str | None = None
    executor: str | None = None
    """The source of the persistent executor; None: each run is a command."""
    steps: Callable[[Stage], Steps] | None = None
    """Of the first turn of a persistent executor."""
    flags: tuple[str, ...] = ()
    """Further ones of the runner."""
    broken: tuple[str, ...] = ()
    """What is broken in the runner that is killed; see `doomed_runner`."""
    profile: dict[str, Any] = {}
    """Further fields of it."""
    arrange: Callable[[Stage], None] = lambda _: None
    """Before there is a runner."""
    first_killed_at: Point = None
    """An earlier runner dies there; the next one is the one that is looked at."""
    provoke_first: Act = nothing_more
    """While the earlier one is at work."""
    meanwhile: Act = nothing_more
    """Between the two."""
    provoke: Act = nothing_more
    """While the one is at work that is looked at."""
    afresh: str = "completed"
    """What the run comes to where a later runner carries it out with nothing in its way."""
    every_write: bool = False
    """Whether it is also killed at each write of its journal."""
    is_healed: bool = False
    """Whether the network is well again when the runner has died."""

    @property
    def tries_again(self) -> bool:
        return bool(self.profile.get("retry_interrupted"))
