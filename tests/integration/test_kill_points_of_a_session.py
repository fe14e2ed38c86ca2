"""A runner is killed with SIGKILL at any point of a persistent executor's life.

No process of the executor is left, each of its runs ends once, and its session ends.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.runtime.actors.machines import load_machine
from tests.support import faults
from tests.support.command_executor import SESSION_STATUS, held_by, staged_source
from tests.support.coordinated_home import STAGED
from tests.support.doomed_runner import BREAK_STOP, HOLD_START
from tests.support.stage import REFUSED, Act, Scenario, Stage, Steps, nothing_more
from tests.support.theatre import Repertoire, entering, short_transitions, theatre

NOT_SHORT = [("busy", "turn_timed_out", "stopping_turn")]
"""Transitions that no scenario takes: the turn's run has the same time limit, which begins and ends earlier."""


def complete(_: Stage) -> Steps:
    return [["bind"], ["report"]]


def held(stage: Stage) -> Steps:
    return [["bind"], ["report"], *held_by(stage.command)]


def leave(_: Stage) -> Steps:
    return [["bind"], ["report"], ["afterwards", ["exit", 0]]]


def crash(_: Stage) -> Steps:
    return [["bind"], ["report"], ["afterwards", ["exit", 1]]]


def fail(_: Stage) -> Steps:
    return [["exit", 3]]


def refuse_status(stage: Stage) -> None:
    stage.proxy.fault("POST", SESSION_STATUS, faults.status(REFUSED), times=None)


async def until_told(stage: Stage) -> None:
    """Wait for the report of an end between two turns."""
    await stage.proxy.seen("POST", SESSION_STATUS)


async def resume_when_idle(stage: Stage) -> None:
    await stage.in_status("completed")
    await stage.resume([["report"]])


async def stop_when_idle(stage: Stage) -> None:
    await stage.in_status("completed")
    await stage.stop_session()
    await until_told(stage)


async def stop_when_running(stage: Stage) -> None:
    await stage.in_status("running")
    await stage.stop()


async def stop_when_busy(stage: Stage) -> None:
    await stage.command.started.pid()
    await stop_when_running(stage)


async def wait_for_its_end(stage: Stage) -> None:
    await stage.ended()


def of_session(
    name: str, steps: Callable[[Stage], Steps] = complete, provoke: Act = nothing_more, **fields: Any
) -> Scenario:
    return Scenario(
        **{"name": name, "agent": STAGED, "executor": staged_source(), "steps": steps, "provoke": provoke, **fields}
    )


SCENARIOS = (
    of_session("is closed when its runner leaves"),
    of_session("takes a further turn", provoke=resume_when_idle),
    of_session("ends between turns", leave, until_told),
    of_session("crashes between turns", crash, until_told),
    of_session("has no further turn", provoke=until_told, flags=("--session-idle-timeout", "0.3")),
    of_session("is stopped between turns", provoke=stop_when_idle),
    of_session("is stopped in a turn", held, stop_when_busy),
    of_session("is stopped while it starts", held, stop_when_running, broken=(HOLD_START,)),
    of_session("does not start", executor="#!/nowhere/at/all\n", afresh="failed"),
    of_session("fails in a turn", fail, afresh="failed"),
    of_session("cannot be stopped in a turn", held, stop_when_busy, broken=(BREAK_STOP,)),
    of_session("cannot be stopped after it failed in a turn", fail, broken=(BREAK_STOP,), afresh="failed"),
    of_session("cannot be stopped between turns", provoke=stop_when_idle, broken=(BREAK_STOP,)),
    of_session("is not told", leave, until_told, arrange=refuse_status),
    of_session("was starting", held, first_killed_at=entering("session", "starting")),
    of_session("was busy", held, first_killed_at=entering("session", "busy")),
    of_session("was idle", first_killed_at=entering("session", "idle"), provoke_first=wait_for_its_end),
    of_session(
        "was being stopped in a turn",
        held,
        first_killed_at=entering("session", "stopping_turn"),
        provoke_first=stop_when_busy,
    ),
    of_session(
        "had failed in a turn",
        fail,
        first_killed_at=entering("session", "stopping_turn"),
        provoke_first=wait_for_its_end,
        afresh="failed",
    ),
    of_session(
        "was being stopped between turns",
        first_killed_at=entering("session", "stopping_idle"),
        provoke_first=stop_when_idle,
    ),
)
SESSIONS = Repertoire("session", SCENARIOS)


async def test_the_scenarios_take_every_transition_of_a_session(tmp_path: Path) -> None:
    async with theatre(SESSIONS, tmp_path) as stage:
        taken = [await stage.triples(scenario) for scenario in SCENARIOS]
    missing = short_transitions(load_machine("session").spec, NOT_SHORT).difference(*taken)
    assert not missing, f"no scenario takes {sorted(missing)}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_session_comes_to_an_end_where_its_runner_is_killed_and_it(tmp_path: Path, scenario: Scenario) -> None:
    async with theatre(SESSIONS, tmp_path) as stage:
        defects = await stage.defects(scenario)
    assert not defects, "\n\n".join(defects)
