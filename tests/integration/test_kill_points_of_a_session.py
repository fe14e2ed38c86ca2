"""A runner is killed with SIGKILL at each point of a session and restarted. No process remains, the runs end once, and
the session ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.runtime.actors.interfaces import load_machine
from tests.support import faults
from tests.support.command_executor import SESSION_STATUS, held_by, scripted_executor_source
from tests.support.coordinated_home import SCRIPTED, write_coordinated_home
from tests.support.crash.fork_server import ForkServer
from tests.support.crash.harness import ScenarioSuite, crash_harness, short_transitions, transitions_of_state
from tests.support.crash.kill_points import on_entering
from tests.support.crash.restart import defects_after_restart, open_context, run_to_kill
from tests.support.crash.runner_program import BREAK_STOP, HOLD_START
from tests.support.crash.scenario import REFUSED, Action, Scenario, ScenarioContext, Steps, let_it_finish

pytestmark = pytest.mark.slow

LIMIT_S = 1.0
"""Longer than `IDLE_S`."""
IDLE_S = "0.2"

NOT_SHORT = [
    # The run of the turn has the same limit and reaches it first.
    ("busy", "turn_timed_out", "stopping_turn"),
    # These are taken in `tests/property/test_session_machine.py`; no message follows them.
    *transitions_of_state(load_machine("session").spec, "abandoning"),
    ("reporting", "reassigned", "superseded"),
]


def complete(_: ScenarioContext) -> Steps:
    return [["bind"], ["report"]]


def held(context: ScenarioContext) -> Steps:
    return [["bind"], ["report"], *held_by(context.command)]


def leave(_: ScenarioContext) -> Steps:
    return [["bind"], ["report"], ["afterwards", ["exit", 0]]]


def crash(_: ScenarioContext) -> Steps:
    return [["bind"], ["report"], ["afterwards", ["exit", 1]]]


def wait_for_limit(_: ScenarioContext) -> Steps:
    return [["bind"], ["limit", LIMIT_S], ["limited"]]


def leave_at_limit(_: ScenarioContext) -> Steps:
    return [["bind"], ["limit", LIMIT_S], ["limited"], ["afterwards", ["exit", 0]]]


def fail(_: ScenarioContext) -> Steps:
    return [["exit", 3]]


def refuse_status(context: ScenarioContext) -> None:
    context.proxy.fault("POST", SESSION_STATUS, faults.status(REFUSED), times=None)


async def session_reported(context: ScenarioContext) -> None:
    """Return when the runner reports the end of the session between two turns."""
    await context.proxy.seen("POST", SESSION_STATUS)


async def resume_when_idle(context: ScenarioContext) -> None:
    await context.wait_for_status("completed")
    await context.resume([["report"]])


async def stop_when_idle(context: ScenarioContext) -> None:
    await context.wait_for_status("completed")
    await context.stop_session()
    await session_reported(context)


async def stop_when_running(context: ScenarioContext) -> None:
    await context.wait_for_status("running")
    await context.stop()


async def stop_when_busy(context: ScenarioContext) -> None:
    await context.command.started.pid()
    await stop_when_running(context)


async def wait_for_exit(context: ScenarioContext) -> None:
    await context.exit_code()


def of_session(
    name: str, steps: Callable[[ScenarioContext], Steps] = complete, act: Action = let_it_finish, **fields: Any
) -> Scenario:
    return Scenario(
        **{
            "name": name,
            "agent": SCRIPTED,
            "executor": scripted_executor_source(),
            "steps": steps,
            "act": act,
            **fields,
        }
    )


SCENARIOS = (
    of_session("is closed when its runner leaves"),
    of_session("takes a further turn", act=resume_when_idle),
    of_session("ends between turns", leave, session_reported),
    of_session("crashes between turns", crash, session_reported),
    of_session("has no further turn", act=session_reported, flags=("--session-idle-timeout", "0.3")),
    of_session("is stopped between turns", act=stop_when_idle),
    of_session("is stopped in a turn", held, stop_when_busy),
    of_session("is stopped while it starts", held, stop_when_running, injected_faults=(HOLD_START,)),
    of_session("does not start", executor="#!/nowhere/at/all\n", status_if_run_again="failed"),
    of_session("fails in a turn", fail, status_if_run_again="failed"),
    of_session("cannot be stopped in a turn", held, stop_when_busy, injected_faults=(BREAK_STOP,)),
    of_session(
        "cannot be stopped after it failed in a turn", fail, injected_faults=(BREAK_STOP,), status_if_run_again="failed"
    ),
    of_session("cannot be stopped between turns", act=stop_when_idle, injected_faults=(BREAK_STOP,)),
    of_session("is not reported", leave, session_reported, arrange=refuse_status),
    of_session(
        "is closed while its run waits for a limit",
        wait_for_limit,
        flags=("--session-idle-timeout", IDLE_S),
        profile={"revive": True},
    ),
    of_session(
        "cannot be closed while its run waits for a limit",
        wait_for_limit,
        flags=("--session-idle-timeout", IDLE_S),
        profile={"revive": True},
        injected_faults=(BREAK_STOP,),
    ),
    of_session("ends while its run waits for a limit", leave_at_limit, profile={"revive": True}),
    of_session("was starting", held, first_kill_point=on_entering("session", "starting")),
    of_session("was busy", held, first_kill_point=on_entering("session", "busy")),
    of_session("was idle", first_kill_point=on_entering("session", "idle"), act_on_first_runner=wait_for_exit),
    of_session(
        "was being stopped in a turn",
        held,
        first_kill_point=on_entering("session", "stopping_turn"),
        act_on_first_runner=stop_when_busy,
    ),
    of_session(
        "had failed in a turn",
        fail,
        first_kill_point=on_entering("session", "stopping_turn"),
        act_on_first_runner=wait_for_exit,
        status_if_run_again="failed",
    ),
    of_session(
        "was being stopped between turns",
        first_kill_point=on_entering("session", "stopping_idle"),
        act_on_first_runner=stop_when_idle,
    ),
)
SUITE = ScenarioSuite("session", SCENARIOS)


async def test_the_scenarios_cover_every_transition_of_a_session(tmp_path: Path) -> None:
    async with crash_harness(SUITE, tmp_path) as harness:
        taken = await harness.transitions_of(SCENARIOS)
    missing = short_transitions(load_machine("session").spec, NOT_SHORT).difference(*taken)
    assert not missing, f"no scenario takes {sorted(missing)}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_session_ends_if_its_runner_is_killed_and_it(tmp_path: Path, scenario: Scenario) -> None:
    async with crash_harness(SUITE, tmp_path) as harness:
        defects = await harness.defects(scenario)
    assert not defects, "\n\n".join(defects)


async def test_a_run_is_executed_again_if_its_session_was_idle_already(tmp_path: Path) -> None:
    """The run is open in the journal although its executor has completed the turn."""
    scenario = of_session("was idle", profile={"retry_interrupted": True})
    write_coordinated_home(tmp_path, {}, scenario.executor, **scenario.profile)
    async with ForkServer() as server, open_context(scenario, tmp_path / "crash", server) as context:
        assert (await run_to_kill(context, on_entering("session", "idle"))).was_killed
        assert not await defects_after_restart(context), context.describe()
        assert await context.status() == "completed"
        assert await context.system.api.session_status(context.run.session_id) == "finished"
