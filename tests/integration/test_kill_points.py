"""A runner is killed with SIGKILL at any point of a run and started again.

The run ends as if the runner had not been killed, or as interrupted, and its end is reported once.
"""

from pathlib import Path

import pytest

from fsm_runner.runtime.actors.machines import load_machine
from tests.support import faults
from tests.support.coordinated_home import SCRIPT
from tests.support.doomed_runner import BREAK_STOP, HOLD_ACCEPT
from tests.support.proxy import TERMINAL_REPORT
from tests.support.stage import REFUSED, Scenario, Stage
from tests.support.theatre import Repertoire, entering, short_transitions, theatre

BIND_DELAY_S = 0.1
"""Longer than a command takes that waits for nothing."""
DOWNLOAD = "/scripts/[^/]+/download"


def hold_preparation(stage: Stage) -> None:
    """Hold the second download: the first one belongs to the runner, which fetches all scripts when it starts."""
    stage.proxy.fault("GET", DOWNLOAD, faults.status(REFUSED))
    stage.proxy.fault("GET", DOWNLOAD, faults.hold(stage.released), times=None)


def bind_late(stage: Stage) -> None:
    """Delay the bind until the end of the run is on disk, as nothing else flushes the journal before the report."""
    stage.proxy.fault("POST", "/sessions/[^/]+/bind", faults.delay(BIND_DELAY_S))


def refuse_reports(stage: Stage) -> None:
    stage.proxy.fault("POST", TERMINAL_REPORT, faults.status(REFUSED), times=None)


async def wait(stage: Stage) -> None:
    """Let the run wait."""


async def stop_when_claimed(stage: Stage) -> None:
    await stage.in_status("claimed")
    await stage.stop()


async def stop_while_preparing(stage: Stage) -> None:
    await stage.proxy.seen("GET", DOWNLOAD, 2)
    await stage.stop()


async def stop_when_executing(stage: Stage) -> None:
    await stage.command.started.pid()
    await stage.in_status("running")
    await stage.stop()


async def settle(stage: Stage) -> None:
    """Deregister the runner, so that the coordinator fails its runs."""
    (runner,) = await stage.desk.runners()
    await stage.desk.api.deregister(str(runner["runner_id"]))


SCENARIOS = (
    Scenario(name="completes", arrange=bind_late, every_write=True),
    Scenario(name="fails", agent="fails", afresh="failed"),
    Scenario(name="has nothing to start", agent="nothing", afresh="failed"),
    Scenario(name="has no workspace", project_dir="/nowhere/at/all", afresh="failed"),
    Scenario(name="is stopped when claimed", broken=(HOLD_ACCEPT,), provoke=stop_when_claimed),
    Scenario(name="is stopped while preparing", agent=SCRIPT, arrange=hold_preparation, provoke=stop_while_preparing),
    Scenario(name="is stopped while executing", provoke=stop_when_executing, every_write=True),
    Scenario(name="cannot be stopped", broken=(BREAK_STOP,), provoke=stop_when_executing),
    Scenario(name="times out", flags=("--run-timeout", "0.2"), provoke=wait),
    Scenario(name="is not reported", arrange=refuse_reports),
    Scenario(name="was claimed", first_killed_at=entering("run", "claimed")),
    Scenario(name="was being prepared", first_killed_at=entering("run", "preparing_workspace")),
    Scenario(name="was executing", first_killed_at=entering("run", "executing")),
    Scenario(name="was being stopped", first_killed_at=entering("run", "stopping"), provoke_first=stop_when_executing),
    Scenario(
        name="was executing and is stopped", first_killed_at=entering("run", "executing"), meanwhile=stop_when_claimed
    ),
    Scenario(name="is settled meanwhile", first_killed_at=entering("run", "executing"), meanwhile=settle),
    Scenario(
        name="is tried again",
        first_killed_at=entering("run", "executing"),
        profile={"retry_interrupted": True},
        every_write=True,
    ),
)


RUNS = Repertoire("run", SCENARIOS)


async def test_the_scenarios_take_every_transition_of_a_run(tmp_path: Path) -> None:
    async with theatre(RUNS, tmp_path) as stage:
        taken = [await stage.triples(scenario) for scenario in SCENARIOS]
    missing = short_transitions(load_machine("run").spec).difference(*taken)
    assert not missing, f"no scenario takes {sorted(missing)}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_run_ends_once_where_its_runner_is_killed_and(tmp_path: Path, scenario: Scenario) -> None:
    async with theatre(RUNS, tmp_path) as stage:
        defects = await stage.defects(scenario)
    assert not defects, "\n\n".join(defects)
