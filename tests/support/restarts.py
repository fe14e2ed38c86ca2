"""A runner that is killed at a point of its work and started again, and what has to hold then."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, EXIT_OK
from fsm_runner.protocol.wire import RunCreated
from tests.support.doomed_runner import WRITES_SAID, Point
from tests.support.durable import Durable, Step, end_left_running, left_running
from tests.support.ends import ends_told
from tests.support.nursery import Nursery
from tests.support.proxy import TERMINAL_REPORT
from tests.support.runner import bench, waiter
from tests.support.stage import REFUSED, TERMINAL, TIMINGS, Scenario, Stage

SESSION_ENDS = {"completed": "finished", "failed": "failed", "stopped": "stopped"}
"""Of sessions that have one run."""
ORDERLY = frozenset({EXIT_OK, EXIT_FAILED, EXIT_ABORTED})
KILLED = -signal.SIGKILL
INTERRUPTED = "interrupted"


class Outcome(NamedTuple):
    """What one runner that was to be killed came to."""

    was_reached: bool
    """Whether it has died at its point."""
    steps: list[Step]
    """As it has written them down, and earlier ones before it."""
    writes: int
    """Of its journal; 0 where it has not come to say so."""


class Expected(NamedTuple):
    """How a run has to end."""

    statuses: frozenset[str]
    said: str = ""
    """What its error begins with."""


@asynccontextmanager
async def staged(scenario: Scenario, folder: Path, nursery: Nursery) -> AsyncIterator[Stage]:
    """`folder` is new; what `write_coordinated_home` has written is beside it."""
    (folder / "project").mkdir(parents=True)
    (folder / "state").mkdir()
    shared = folder.parent
    async with (
        bench(folder, TIMINGS, agents_dir=shared / "agents", scripts_dir=shared / "scripts") as desk,
        waiter(folder) as command,
    ):
        stage = Stage(scenario, folder, nursery, desk, command)
        try:
            yield stage
        finally:
            if stage.runner is not None:
                await stage.runner.signal(signal.SIGKILL)
                await stage.runner.ended()
            end_left_running(stage.state_dir)


async def perform(stage: Stage, point: Point) -> Outcome:
    """The scenario, until its runner has died at the point or has left, the run ended."""
    scenario = stage.scenario
    scenario.arrange(stage)
    await stage.submit()
    if scenario.first_killed_at is not None:
        stage.start(scenario.first_killed_at, doomed=False)
        assert await _while_it_lives(stage, scenario.provoke_first(stage)) == KILLED
        await scenario.meanwhile(stage)
    stage.start(point, doomed=True)
    code = await _while_it_lives(stage, _to_the_end(stage))
    assert code == KILLED or code in ORDERLY, f"exit code {code}"
    said = [line for line in stage.log if line.startswith(WRITES_SAID)]
    writes = int(said[-1].removeprefix(WRITES_SAID)) if said else 0
    return Outcome(code == KILLED, stage.durable.steps, writes)


async def _to_the_end(stage: Stage) -> None:
    await stage.scenario.provoke(stage)
    await stage.told()
    await stage.leaves()


async def _while_it_lives(stage: Stage, work: Awaitable[None]) -> int:
    """Its exit code. The work is given up when it dies."""
    working = asyncio.ensure_future(work)
    dying = asyncio.ensure_future(stage.ended())
    try:
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() and not dying.done():
            working.result()
        return await dying
    finally:
        for task in (working, dying):
            task.cancel()
        await asyncio.wait({working, dying})


async def defects_after_restart(stage: Stage) -> list[str]:
    """A runner is started where one has died, and lives until the runs have ended. What is wrong then."""
    left = stage.durable
    expected = [await _expected(stage, run, left) for run in stage.runs]
    if stage.scenario.is_healed:
        stage.proxy.heal()
    stage.let_go()
    stage.start(None, doomed=False)
    await stage.told()
    code = await stage.leaves()
    now = stage.durable
    defects = [] if code == EXIT_OK else [f"the runner that was started again ended with exit code {code}"]
    for run, its_end in zip(stage.runs, expected, strict=True):
        defects += await _defects_at_the_coordinator(stage, run, its_end)
        defects += _defects_of_life(now.of_run(run.run_id))
    defects += await _defects_of_session(stage)
    defects += now.defects
    return [*defects, *(f"still running: {process}" for process in left_running(stage.state_dir))]


async def _expected(stage: Stage, run: RunCreated, left: Durable) -> Expected:
    """Of what was on disk, and what the coordinator had, when the runner died."""
    status = (await stage.desk.api.run(run.run_id)).status
    steps = left.of_run(run.run_id)
    if status in TERMINAL:
        return Expected(frozenset({status}))
    if steps and steps[-1].outcome is not None:
        return Expected(frozenset({steps[-1].outcome}))
    if run is not stage.run:
        return Expected(TERMINAL)  # a further turn comes too late perhaps
    if status == "stopping":
        return Expected(frozenset({"stopped"}))
    if run.run_id not in left.runs or stage.scenario.tries_again:
        return Expected(frozenset({stage.scenario.afresh}))
    return Expected(frozenset({"failed"}), INTERRUPTED)


async def _defects_at_the_coordinator(stage: Stage, created: RunCreated, expected: Expected) -> list[str]:
    run = await stage.desk.api.run(created.run_id)
    ends = await ends_told(stage.desk.server.url, created)
    reports = stage.proxy.calls_for("POST", TERMINAL_REPORT)
    if reports and all(call.status == REFUSED for call in reports):
        # It has settled the run itself when the runner left.
        return [] if ends in ([], ["failed"]) else [f"the coordinator was told {ends}"]
    defects = []
    if run.status not in expected.statuses or not (run.error or "").startswith(expected.said):
        defects.append(f"{run.run_id} is {run.status} ({run.error}), and should be {expected}")
    if ends != [run.status]:
        defects.append(f"{run.run_id} is {run.status}, and the coordinator was told {ends}")
    if stage.scenario.executor is None:
        defects += await _defects_of_command(stage, created, run.status)
    return defects


async def _defects_of_command(stage: Stage, created: RunCreated, status: str) -> list[str]:
    session_status = await stage.desk.api.session_status(created.session_id)
    if session_status != SESSION_ENDS.get(status):
        return [f"the run is {status}, and its session is {session_status}"]
    if stage.executions > 1 and not stage.scenario.tries_again:
        return [f"its command was carried out {stage.executions} times"]
    if status != "completed":
        return []
    result = await stage.desk.result(created)
    return [] if result == {"done": "go"} else [f"its result is {result}"]


async def _defects_of_session(stage: Stage) -> list[str]:
    status = await stage.desk.api.session_status(stage.run.session_id)
    return [] if status in SESSION_ENDS.values() else [f"its session is {status}"]


def _defects_of_life(steps: list[Step]) -> list[str]:
    gaps = [str(after) for before, after in pairwise(steps) if before.target != after.source]
    finals = {*TERMINAL, "superseded"}
    if not steps or steps[-1].target not in finals:
        gaps.append("its life has no end in the journal")
    return [f"in the journal: {gap}" for gap in gaps]
