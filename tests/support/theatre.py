"""Scenarios that are rehearsed with a runner that lives, and then performed with one that dies at a point of each."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fsm_runner.errors import FsmRunnerError
from fsm_runner.machine.spec import Spec
from tests.support.coordinated_home import write_coordinated_home
from tests.support.doomed_runner import ANY, STEP_MOMENTS, WRITE_MOMENTS, WRITTEN, Point, StepPoint, WritePoint
from tests.support.nursery import Nursery
from tests.support.restarts import Outcome, defects_after_restart, perform, staged
from tests.support.stage import AGENTS, Scenario

AT_ONCE = 4
"""So many runners are killed at the same time."""
MOMENTS = int(os.environ.get("KILL_MOMENTS", "3"))
"""At so many moments of a step a runner is killed, at most; with fewer than there are, they take turns."""
LONG_S = 4.0
"""A time limit of the spec above this is not waited for here."""

Triple = tuple[str, str, str]


class Repertoire:
    """The scenarios for one machine. What their rehearsals came to is known to all tests that are performed of it."""

    def __init__(self, machine: str, scenarios: Sequence[Scenario]) -> None:
        self.machine = machine
        self.scenarios = scenarios
        self.rehearsed: dict[str, Outcome] = {}

    def before(self, scenario: Scenario) -> Iterator[Scenario]:
        for each in self.scenarios:
            if each is scenario:
                return
            yield each


class Theatre:
    """Performs scenarios, each in a folder of its own."""

    def __init__(self, repertoire: Repertoire, folder: Path, nursery: Nursery) -> None:
        self._repertoire = repertoire
        self._folder = folder
        self._nursery = nursery
        self._room = asyncio.Semaphore(AT_ONCE)

    async def triples(self, scenario: Scenario) -> list[Triple]:
        """The steps of the runner that is looked at, in their order."""
        steps = (await self._rehearsed(scenario)).steps
        process = steps[-1].process
        own = [step for step in steps if step.machine == self._repertoire.machine and step.process == process]
        return list(dict.fromkeys(step.triple for step in own))

    async def defects(self, scenario: Scenario) -> list[str]:
        """What is wrong where a runner was killed at any point of the scenario, with what led to it."""
        points = await self._points(scenario)
        if not points:
            return ["it takes no transition that an earlier scenario has not taken"]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._kill(scenario, point)) for point in points]
        found = [each for task in tasks for each in task.result()]
        return [f"of {len(points)} points:", *found] if found else []

    async def _points(self, scenario: Scenario) -> list[Point]:
        """The steps that no earlier scenario has taken, and the writes."""
        taken = {each for earlier in self._repertoire.before(scenario) for each in await self.triples(earlier)}
        new = [each for each in await self.triples(scenario) if each not in taken]
        writes = (await self._rehearsed(scenario)).writes if scenario.every_write else 0
        return [
            *(
                StepPoint(self._repertoire.machine, *each, when)
                for number, each in enumerate(new)
                for when in _moments(STEP_MOMENTS, number)
            ),
            *(WritePoint(number + 1, when) for number in range(writes) for when in _moments(WRITE_MOMENTS, number)),
        ]

    async def _rehearsed(self, scenario: Scenario) -> Outcome:
        rehearsed = self._repertoire.rehearsed
        if scenario.name not in rehearsed:
            async with staged(scenario, self._home_of(scenario) / "rehearsal", self._nursery) as stage:
                try:
                    rehearsed[scenario.name] = await perform(stage, None)
                except BaseException as error:
                    error.add_note(stage.described())
                    raise
        return rehearsed[scenario.name]

    async def _kill(self, scenario: Scenario, point: Point) -> list[str]:
        folder = self._home_of(scenario) / str(point).replace("/", "-").replace(ANY, "any")
        async with self._room, staged(scenario, folder, self._nursery) as stage:
            try:
                outcome = await perform(stage, point)
                defects = await defects_after_restart(stage)
            except (AssertionError, TimeoutError, FsmRunnerError) as error:
                defects = [repr(error)]
            else:
                # Writes come together as time has it: the last ones may not come.
                if isinstance(point, StepPoint) and not outcome.was_reached:
                    defects.append("it was never reached")
            return ["\n  ".join([f"killed at {point}:", *defects, stage.described()])] if defects else []

    def _home_of(self, scenario: Scenario) -> Path:
        folder = self._folder / scenario.name.replace(" ", "-")
        if not folder.exists():
            write_coordinated_home(folder, AGENTS, scenario.executor, **scenario.profile)
        return folder


def _moments(there_are: tuple[str, ...], number: int) -> list[str]:
    """Those for the step, or write, of this number."""
    return [there_are[(number + turn) % len(there_are)] for turn in range(min(MOMENTS, len(there_are)))]


@asynccontextmanager
async def theatre(repertoire: Repertoire, folder: Path) -> AsyncIterator[Theatre]:
    async with Nursery() as nursery:
        yield Theatre(repertoire, folder, nursery)


def entering(machine: str, state: str) -> StepPoint:
    """When it has come into this state, and that is on disk."""
    return StepPoint(machine, ANY, ANY, state, WRITTEN)


def short_transitions(spec: Spec, besides: Iterable[Triple] = ()) -> set[Triple]:
    """All but those that are taken when a long time is over, and `besides`."""
    late = {
        state.on_timeout
        for state in spec.states.values()
        if isinstance(state.timeout_s, int | float) and state.timeout_s > LONG_S
    }
    rules = [rule for rule in spec.transitions if rule.event not in late]
    return {(source, rule.event, rule.to) for rule in rules for source in rule.sources}.difference(besides)
