"""Execute a scenario until its runner is killed, restart the runner, and check the result."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, EXIT_OK
from fsm_runner.protocol.wire import RunCreated
from tests.support.crash.fork_server import ForkServer
from tests.support.crash.journal_files import JournalContent, Step, kill_processes_left, processes_left
from tests.support.crash.kill_points import KillPoint
from tests.support.crash.runner_program import WRITE_COUNT_PREFIX
from tests.support.crash.scenario import REFUSED, TERMINAL, TIMINGS, Scenario, ScenarioContext
from tests.support.ends import reported_ends
from tests.support.proxy import TERMINAL_REPORT
from tests.support.runner import open_system, waiter

SESSION_STATUS_BY_RUN = {"completed": "finished", "failed": "failed", "stopped": "stopped"}
"""For a session with one run: its status by that of the run."""
REGULAR_EXIT_CODES = frozenset({EXIT_OK, EXIT_FAILED, EXIT_ABORTED})
KILLED_EXIT_CODE = -signal.SIGKILL
INTERRUPTED = "interrupted"


class Outcome(NamedTuple):
    """The result of one runner that has a kill point."""

    was_killed: bool
    """Whether it reached its kill point."""
    steps: list[Step]
    """The steps in its journal, with those of earlier runners."""
    writes: int
    """The number of journal writes; 0 if it was killed."""


class Expected(NamedTuple):
    """How a run must end."""

    statuses: frozenset[str]
    error_prefix: str = ""


@asynccontextmanager
async def open_context(scenario: Scenario, folder: Path, fork_server: ForkServer) -> AsyncIterator[ScenarioContext]:
    """`folder` does not exist yet; its parent was written by `write_coordinated_home`."""
    (folder / "project").mkdir(parents=True)
    (folder / "state").mkdir()
    shared = folder.parent
    async with (
        open_system(folder, TIMINGS, agents_dir=shared / "agents", scripts_dir=shared / "scripts") as system,
        waiter(folder) as command,
    ):
        context = ScenarioContext(scenario, folder, fork_server, system, command)
        try:
            yield context
        finally:
            if context.runner is not None:
                await context.runner.signal(signal.SIGKILL)
                await context.runner.exit_code()
            kill_processes_left(context.state_dir)


async def run_to_kill(context: ScenarioContext, point: KillPoint) -> Outcome:
    """Execute the scenario until its runner is killed at the point, or drains after the end of the run."""
    scenario = context.scenario
    scenario.arrange(context)
    await context.submit()
    if scenario.first_kill_point is not None:
        context.start(scenario.first_kill_point)
        assert await _until_exit(context, scenario.act_on_first_runner(context)) == KILLED_EXIT_CODE
        await scenario.between_runners(context)
    context.start(point, scenario.injected_faults)
    code = await _until_exit(context, _run_to_end(context))
    assert code == KILLED_EXIT_CODE or code in REGULAR_EXIT_CODES, f"exit code {code}"
    counts = [line for line in context.log if line.startswith(WRITE_COUNT_PREFIX)]
    writes = int(counts[-1].removeprefix(WRITE_COUNT_PREFIX)) if counts else 0
    return Outcome(code == KILLED_EXIT_CODE, context.journal.steps, writes)


async def _run_to_end(context: ScenarioContext) -> None:
    await context.scenario.act(context)
    await context.wait_for_reports()
    await context.shut_down()


async def _until_exit(context: ScenarioContext, work: Awaitable[None]) -> int:
    """Wait for the exit of the runner; cancel the work then. Return the exit code."""
    working = asyncio.ensure_future(work)
    dying = asyncio.ensure_future(context.exit_code())
    try:
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() and not dying.done():
            working.result()
        return await dying
    finally:
        for task in (working, dying):
            task.cancel()
        await asyncio.wait({working, dying})


async def defects_after_restart(context: ScenarioContext) -> list[str]:
    """Restart the runner, and let it work until the runs have ended. Return what is wrong then."""
    before = context.journal
    expected = [await _expected(context, run, before) for run in context.runs]
    if context.scenario.network_recovers:
        context.proxy.heal()
    context.release()
    context.start(None)
    await context.wait_for_reports()
    code = await context.shut_down()
    after = context.journal
    defects = [] if code == EXIT_OK else [f"the restarted runner ended with exit code {code}"]
    for run, expectation in zip(context.runs, expected, strict=True):
        defects += await _defects_at_the_coordinator(context, run, expectation)
        if run.run_id in after.runs:  # The runner may have been killed before the claim was on disk.
            defects += _defects_of_steps(after.steps_of_run(run.run_id))
    defects += await _defects_of_session(context)
    defects += after.defects
    return [*defects, *(f"still running: {process}" for process in processes_left(context.state_dir))]


async def _expected(context: ScenarioContext, run: RunCreated, journal: JournalContent) -> Expected:
    """Derive the expectation from the journal and the coordinator's status when the runner was killed."""
    status = (await context.system.api.run(run.run_id)).status
    steps = journal.steps_of_run(run.run_id)
    if status in TERMINAL:
        return Expected(frozenset({status}))
    if steps and steps[-1].outcome is not None:
        return Expected(frozenset({steps[-1].outcome}))
    if run is not context.run:
        return Expected(TERMINAL)  # a further turn may come too late
    if status == "stopping":
        return Expected(frozenset({"stopped"}))
    may_continue = run.run_id in journal.waiting or run.run_id not in journal.runs
    has_workflow = context.scenario.workflow is not None  # all of its states are repeated
    if may_continue or has_workflow or context.scenario.retries_interrupted:
        return Expected(frozenset({context.scenario.status_if_run_again}))
    return Expected(frozenset({"failed"}), INTERRUPTED)


async def _defects_at_the_coordinator(context: ScenarioContext, created: RunCreated, expected: Expected) -> list[str]:
    run = await context.system.api.run(created.run_id)
    ends = await reported_ends(context.system.server.url, created)
    reports = context.proxy.calls_for("POST", TERMINAL_REPORT)
    if reports and all(call.status == REFUSED for call in reports):
        # The coordinator has failed the run itself when the runner deregistered.
        return [] if ends in ([], ["failed"]) else [f"the reported ends are {ends}"]
    defects = []
    if run.status not in expected.statuses or not (run.error or "").startswith(expected.error_prefix):
        defects.append(f"{run.run_id} is {run.status} ({run.error}), and should be {expected}")
    if ends != [run.status]:
        defects.append(f"{run.run_id} is {run.status}, and the reported ends are {ends}")
    if context.scenario.is_command:
        defects += await _defects_of_command(context, created, run.status)
    return defects


async def _defects_of_command(context: ScenarioContext, created: RunCreated, status: str) -> list[str]:
    session_status = await context.system.api.session_status(created.session_id)
    if session_status != SESSION_STATUS_BY_RUN.get(status):
        return [f"the run is {status}, and its session is {session_status}"]
    if context.executions > 1 and not context.scenario.retries_interrupted:
        return [f"its command was executed {context.executions} times"]
    if status != "completed":
        return []
    result = await context.system.result(created)
    return [] if result == {"done": "go"} else [f"its result is {result}"]


async def _defects_of_session(context: ScenarioContext) -> list[str]:
    status = await context.system.api.session_status(context.run.session_id)
    return [] if status in SESSION_STATUS_BY_RUN.values() else [f"its session is {status}"]


def _defects_of_steps(steps: list[Step]) -> list[str]:
    gaps = [str(after) for before, after in pairwise(steps) if before.target != after.source]
    finals = {*TERMINAL, "superseded"}
    if not steps or steps[-1].target not in finals:
        gaps.append("the run has no end")
    return [f"in the journal: {gap}" for gap in gaps]
