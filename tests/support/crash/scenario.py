"""A scenario, and the context in which it is executed: one session, a coordinator, and runners one after another."""

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
from tests.support.crash.fork_server import ForkServer, RunnerProcess
from tests.support.crash.journal_files import JournalContent, read_journal
from tests.support.crash.kill_points import NEVER, KillPoint
from tests.support.program import environment
from tests.support.proxy import TERMINAL_REPORT
from tests.support.runner import System, Waiter
from tests.support.watch import PATIENCE_S

TIMINGS = Timings(poll_timeout_s=5, heartbeat_interval_s=60, stale_after_s=0.01)
"""Every runner counts as stale at once, so that the coordinator accepts its successor. Nothing else depends on it."""
REGISTER = "/runner/register"
REFUSED = 404
WORKFLOW = "scenario"
"""The name of each scenario's workflow, if it has one."""
TERMINAL = frozenset({"completed", "failed", "stopped"})
GRACE_S = "20"
LOG_TAIL_LINES = 30
LOOK_INTERVAL_S = 0.05
GATE_LINES = 8
"""More lines than any command is started."""

BACKGROUND_PROCESS = "(sleep 1000 > /dev/null 2>&1 &)"
"""Starts a process that outlives its parent and does not end by itself."""
COUNTING_COMMAND = (
    f'{BACKGROUND_PROCESS}; echo run >> "$2"; echo $$ > "$4"; read line < "$6"; printf \'{{"done": "%s"}}\' "$line"'
)
"""Appends a line to a file with each start, then waits for a line from its gate."""
AGENTS = {
    "counted": COUNTING_COMMAND,
    "fails": f"{COUNTING_COMMAND}; exit 3",
    SCRIPT: COUNTING_COMMAND,
    "nothing": None,
    "child": 'echo child >> "$2"',
}
"""Shell commands by agent; the agent `nothing` has no command."""

Steps = list[list[Any]]
"""See `scripted_executor`."""


class ScenarioContext:
    """The environment of one scenario, and what a scenario can do in it."""

    def __init__(
        self, scenario: "Scenario", folder: Path, fork_server: ForkServer, system: System, command: Waiter
    ) -> None:
        self.scenario = scenario
        self.system = system
        self.proxy = system.proxy
        self.command = command
        self.count_file = folder / "count"
        self.state_dir = folder / "state"
        self.released = asyncio.Event()
        """Set when the proxy answers the calls that it holds."""
        self.runs: list[RunCreated] = []
        """In the order of submission; each after the first is a further turn of the same session."""
        self.runner: RunnerProcess | None = None
        """The latest runner. Each ends before the next one starts."""
        self._folder = folder
        self._fork_server = fork_server
        self._registrations = 0
        """Registrations before the latest runner."""

    @property
    def run(self) -> RunCreated:
        """The first run."""
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
        self.runs.append(await self.system.api.create_run(request))

    async def resume(self, steps: Steps) -> None:
        request = RunRequest(type="resume_session", session_id=self.run.session_id, parameters={"steps": steps})
        self.runs.append(await self.system.api.create_run(request))

    async def stop(self) -> None:
        await self.system.api.stop_run(self.run.run_id)

    async def stop_session(self) -> None:
        async with httpx.AsyncClient(base_url=self.system.server.url, trust_env=False) as http:
            (await http.post(f"/sessions/{self.run.session_id}/stop")).raise_for_status()

    def start(self, point: KillPoint, injected_faults: tuple[str, ...] = ()) -> None:
        """Start a runner."""
        flags = ("--profile", PROFILE, "--coordinator-url", self.proxy.url, "--state-dir", str(self.state_dir))
        arguments = [str(point or NEVER), *injected_faults, "--", *flags]
        arguments += ["--grace-period", GRACE_S, "--verbose", "--external-mcp-url", "http://none", *self.scenario.flags]
        env = environment(self._folder.parent / "home")
        self._registrations = len(self.proxy.acknowledged("POST", REGISTER))
        cwd, log = self._folder / "project", self._folder / "log"
        self.runner = self._fork_server.fork(arguments, cwd=cwd, env=env, log=log)

    async def status(self) -> str:
        """Return the status of the first run at the coordinator."""
        return (await self.system.api.run(self.run.run_id)).status

    async def wait_for_status(self, status: str) -> None:
        async def has_it() -> bool:
            return await self.status() == status

        await self.proxy.wait_until(has_it, f"the run {status}")

    async def wait_until_limited(self) -> None:
        """Return when the coordinator knows that the first run waits for a limit."""

        def is_known() -> bool:
            calls = self.proxy.acknowledged("PATCH", f"/sessions/{self.run.session_id}/metadata")
            return any(call.json.get("limit") for call in calls)

        await self.proxy.wait_for(is_known, "the run's limit")

    async def wait_for_approval(self) -> None:
        """Return when the coordinator knows that the first run waits for an approval."""

        def is_known() -> bool:
            calls = self.proxy.acknowledged("PATCH", f"/sessions/{self.run.session_id}/metadata")
            return any((call.json.get("workflow") or {}).get("approval") for call in calls)

        await self.proxy.wait_for(is_known, "the run's approval")

    async def wait_for_log(self, text: str) -> None:
        """Return when a line of the log contains the text."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(text in line for line in self.log):  # noqa: ASYNC110 - the writer is another process
                await asyncio.sleep(LOOK_INTERVAL_S)

    async def wait_for_reports(self) -> None:
        """Return when the coordinator has received or refused the end of all runs."""

        async def are_reported() -> bool:
            if any(call.status == REFUSED for call in self.proxy.calls_for("POST", TERMINAL_REPORT)):
                return True
            statuses = [(await self.system.api.run(run.run_id)).status for run in self.runs]
            return TERMINAL.issuperset(statuses)

        await self.proxy.wait_until(are_reported, "the end of the runs")

    async def signal(self, *numbers: signal.Signals) -> None:
        # Before it registers, the runner may not have installed its signal handlers.
        await self.proxy.answered("POST", REGISTER, self._registrations + 1)
        assert self.runner is not None
        for number in numbers:
            await self.runner.signal(number)

    async def exit_code(self) -> int:
        """Wait until the latest runner has ended. Return its exit code."""
        assert self.runner is not None
        return await self.runner.exit_code()

    async def shut_down(self) -> int:
        """Ask the latest runner to drain. Return its exit code."""
        await self.signal(signal.SIGTERM)
        return await self.exit_code()

    def release(self) -> None:
        """Let the run finish: answer held calls, and let its command continue."""
        self.released.set()
        for _ in range(GATE_LINES):
            self.command.gate.write_line()

    @property
    def executions(self) -> int:
        return len(self.count_file.read_text().split()) if self.count_file.exists() else 0

    @property
    def log(self) -> list[str]:
        """The log lines of all runners."""
        file = self._folder / "log"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def journal(self) -> JournalContent:
        return read_journal(self.state_dir)

    def describe(self) -> str:
        calls = [str(call) for call in self.proxy.calls]
        steps = [str(step) for step in self.journal.steps]
        return "\n  ".join(["calls:", *calls, "journal:", *steps, "log:", *self.log[-LOG_TAIL_LINES:]])


Action = Callable[[ScenarioContext], Awaitable[None]]


async def let_it_finish(context: ScenarioContext) -> None:
    """Let the run end by itself."""
    context.release()


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Makes a run, a session or a runner take certain transitions."""

    name: str
    agent: str = "counted"
    project_dir: str | None = None
    executor: str | None = None
    """The source of an executor, persistent unless the profile says otherwise. None: each run is a command."""
    workflow: str | None = None
    """The text of the workflow that the run follows. Its name is that of `WORKFLOW`."""
    steps: Callable[[ScenarioContext], Steps] | None = None
    """The steps of the first turn of the executor."""
    flags: tuple[str, ...] = ()
    """Additional flags of the runner."""
    injected_faults: tuple[str, ...] = ()
    """Faults in the runner that is killed; see `runner_program`."""
    profile: dict[str, Any] = {}
    """Additional fields of the profile."""
    arrange: Callable[[ScenarioContext], None] = lambda _: None
    """Called before the first runner starts."""
    first_kill_point: KillPoint = None
    """Where an earlier runner is killed; the next one is then the runner under test."""
    act_on_first_runner: Action = let_it_finish
    """Called while the earlier runner works."""
    between_runners: Action = let_it_finish
    """Called between the two."""
    act: Action = let_it_finish
    """Called while the runner under test works."""
    status_if_run_again: str = "completed"
    """How the run ends if the restarted runner executes it without disturbance."""
    kills_at_every_write: bool = False
    """Whether the runner is also killed at each write of its journal."""
    network_recovers: bool = False
    """Whether the proxy drops its faults after the kill."""

    @property
    def retries_interrupted(self) -> bool:
        return bool(self.profile.get("retry_interrupted"))

    @property
    def is_command(self) -> bool:
        """Whether the run is nothing but one command."""
        return self.executor is None and self.workflow is None
