"""Run each scenario once to the end, then once for each kill point, and restart the runner after each kill."""

import asyncio
import fcntl
import os
import pickle
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fsm_runner.errors import FsmRunnerError
from fsm_runner.machine.spec import Spec
from tests.support.coordinated_home import write_coordinated_home
from tests.support.crash.fork_server import ForkServer
from tests.support.crash.kill_points import (
    ANY,
    STEP_PHASES,
    WRITE_PHASES,
    KillPoint,
    StepKillPoint,
    WriteKillPoint,
)
from tests.support.crash.restart import Outcome, defects_after_restart, open_context, run_to_kill
from tests.support.crash.scenario import AGENTS, WORKFLOW, Scenario

MAX_CONCURRENT = 4
"""Kill points that run at the same time."""
PHASES_PER_STEP = int(os.environ.get("KILL_PHASES", "3"))
"""The phases of each step, or write, at which a runner is killed. With fewer than exist, steps take them in turn."""
LONG_TIMEOUT_S = 4.0
"""The tests do not wait for time limits of a spec above this."""

TransitionKey = tuple[str, str, str]
"""Source, event, target."""


class ScenarioSuite:
    """The scenarios of one machine, with the outcomes of their reference runs, which all tests share."""

    def __init__(self, machine: str, scenarios: Sequence[Scenario]) -> None:
        self.machine = machine
        self.scenarios = scenarios
        self.reference_outcomes: dict[str, Outcome] = {}

    def earlier_than(self, scenario: Scenario) -> Iterator[Scenario]:
        for each in self.scenarios:
            if each is scenario:
                return
            yield each


class CrashHarness:
    """Executes scenarios, each in a folder of its own."""

    def __init__(self, suite: ScenarioSuite, folder: Path, fork_server: ForkServer) -> None:
        self._suite = suite
        self._folder = folder
        self._fork_server = fork_server
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def transitions_taken(self, scenario: Scenario) -> list[TransitionKey]:
        """Return the transitions of the runner under test in a reference run, in order, without repetitions."""
        steps = (await self._reference_outcome(scenario)).steps
        process = steps[-1].process
        own = [step for step in steps if step.machine == self._suite.machine and step.process == process]
        return list(dict.fromkeys(step.key for step in own))

    async def transitions_of(self, scenarios: Iterable[Scenario]) -> list[list[TransitionKey]]:
        return await asyncio.gather(*map(self.transitions_taken, scenarios))

    async def defects(self, scenario: Scenario) -> list[str]:
        """Kill a runner at each point of the scenario. Return the defects after restarts, with what led to them."""
        points = await self._kill_points(scenario)
        if not points:
            return ["it takes no transition that an earlier scenario has not taken"]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._defects_at(scenario, point)) for point in points]
        found = [each for task in tasks for each in task.result()]
        return [f"of {len(points)} points:", *found] if found else []

    async def _kill_points(self, scenario: Scenario) -> list[KillPoint]:
        """Return the steps that no earlier scenario takes, and the writes."""
        earlier = self._suite.earlier_than(scenario)
        taken = {key for keys in await self.transitions_of(earlier) for key in keys}
        new = [key for key in await self.transitions_taken(scenario) if key not in taken]
        writes = (await self._reference_outcome(scenario)).writes if scenario.kills_at_every_write else 0
        return [
            *(
                StepKillPoint(self._suite.machine, *key, phase)
                for number, key in enumerate(new)
                for phase in _phases_for(STEP_PHASES, number)
            ),
            *(
                WriteKillPoint(number + 1, phase)
                for number in range(writes)
                for phase in _phases_for(WRITE_PHASES, number)
            ),
        ]

    async def _reference_outcome(self, scenario: Scenario) -> Outcome:
        outcomes = self._suite.reference_outcomes
        if scenario.name not in outcomes:
            async with self._slots, self._shared(scenario) as file:
                if not file.exists():
                    file.write_bytes(pickle.dumps(await self._outcome_without_kill(scenario)))
                outcomes[scenario.name] = pickle.loads(file.read_bytes())
        return outcomes[scenario.name]

    @asynccontextmanager
    async def _shared(self, scenario: Scenario) -> AsyncIterator[Path]:
        """Lock a file that the processes of a parallel test run share."""
        folder = self._folder.parents[1] if "PYTEST_XDIST_WORKER" in os.environ else self._folder.parent
        name = f"{self._suite.machine} {scenario.name}".replace(" ", "-")
        with (folder / f"{name}.lock").open("w") as lock:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            yield folder / f"{name}.outcome"

    async def _outcome_without_kill(self, scenario: Scenario) -> Outcome:
        async with open_context(scenario, self._folder_of(scenario) / "reference", self._fork_server) as context:
            try:
                return await run_to_kill(context, None)
            except BaseException as error:
                error.add_note(context.describe())
                raise

    async def _defects_at(self, scenario: Scenario, point: KillPoint) -> list[str]:
        folder = self._folder_of(scenario) / str(point).replace("/", "-").replace(ANY, "any")
        async with self._slots, open_context(scenario, folder, self._fork_server) as context:
            try:
                outcome = await run_to_kill(context, point)
                defects = await defects_after_restart(context)
            except (AssertionError, TimeoutError, FsmRunnerError) as error:
                defects = [repr(error)]
            else:
                # The number of writes varies, because those close in time are combined: the last may not happen.
                if isinstance(point, StepKillPoint) and not outcome.was_killed:
                    defects.append("the kill point was never reached")
            return ["\n  ".join([f"killed at {point}:", *defects, context.describe()])] if defects else []

    def _folder_of(self, scenario: Scenario) -> Path:
        folder = self._folder / scenario.name.replace(" ", "-")
        if not folder.exists():
            write_home(folder, scenario)
        return folder


def write_home(folder: Path, scenario: Scenario) -> None:
    """Write what the runners and the coordinators of a scenario share."""
    fields = scenario.profile if scenario.workflow is None else {**scenario.profile, "workflow": WORKFLOW}
    write_coordinated_home(folder, AGENTS, scenario.executor, **fields)
    if scenario.workflow is not None:
        (folder / "home" / "workflows").mkdir()
        (folder / "home" / "workflows" / f"{WORKFLOW}.toml").write_text(scenario.workflow)


def _phases_for(phases: tuple[str, ...], number: int) -> list[str]:
    """Return the phases for the step, or write, with this number."""
    return [phases[(number + turn) % len(phases)] for turn in range(min(PHASES_PER_STEP, len(phases)))]


@asynccontextmanager
async def crash_harness(suite: ScenarioSuite, folder: Path) -> AsyncIterator[CrashHarness]:
    async with ForkServer() as fork_server:
        yield CrashHarness(suite, folder, fork_server)


def transitions_of_state(spec: Spec, state: str) -> list[TransitionKey]:
    """Return the transitions to and from a state."""
    keys = [(source, rule.event, rule.to) for rule in spec.transitions for source in rule.sources]
    return [key for key in keys if state in (key[0], key[2])]


def short_transitions(spec: Spec, excluded: Iterable[TransitionKey] = ()) -> set[TransitionKey]:
    """Return all transitions except `excluded` and those caused by a long time limit."""
    late = {
        state.on_timeout
        for state in spec.states.values()
        if isinstance(state.timeout_s, int | float) and state.timeout_s > LONG_TIMEOUT_S
    }
    rules = [rule for rule in spec.transitions if rule.event not in late]
    return {(source, rule.event, rule.to) for rule in rules for source in rule.sources}.difference(excluded)
