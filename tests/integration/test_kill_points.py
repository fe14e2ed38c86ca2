"""A runner is killed with SIGKILL at each point of a run and restarted. The run ends as without the kill, or as
interrupted, and its end is reported once."""

from pathlib import Path

import pytest

from fsm_runner.runtime.actors.interfaces import load_machine
from tests.support import faults
from tests.support.command_executor import held_by
from tests.support.coordinated_home import SCRIPT
from tests.support.crash.harness import ScenarioSuite, crash_harness, short_transitions, transitions_of_state
from tests.support.crash.kill_points import WRITTEN, StepKillPoint, on_entering
from tests.support.crash.limits import (
    ON_WAITING,
    far_limit,
    live_limit,
    nothing,
    one_shot_limit,
    session_limit,
    stop_when_limited,
    with_executor,
)
from tests.support.crash.runner_program import (
    BREAK_STOP,
    BREAK_WAIT,
    BREAK_WORKFLOW_WAIT,
    EXCEED_BUDGET_IN_WORKFLOW,
    EXCEED_BUDGET_WAITING,
    HOLD_ACCEPT,
    HOLD_CHECK,
    OTHER_LIMIT,
    SLOW_ADMISSION,
)
from tests.support.crash.scenario import REFUSED, WORKFLOW, Scenario, ScenarioContext, Steps
from tests.support.proxy import TERMINAL_REPORT
from tests.support.workflows import workflow

pytestmark = pytest.mark.slow

BIND_DELAY_S = 0.1
"""Longer than a command takes."""
DOWNLOAD = "/scripts/[^/]+/download"


def hold_preparation(context: ScenarioContext) -> None:
    """Make the run download its script itself: the first download belongs to the runner's synchronisation."""
    context.proxy.fault("GET", DOWNLOAD, faults.status(REFUSED))
    context.proxy.fault("GET", DOWNLOAD, faults.hold(context.released), times=None)


def bind_late(context: ScenarioContext) -> None:
    """Delay the acknowledgement of the bind until the end of the run is on disk, and no flush precedes the report."""
    context.proxy.fault("POST", "/sessions/[^/]+/bind", faults.delay(BIND_DELAY_S))


def refuse_reports(context: ScenarioContext) -> None:
    context.proxy.fault("POST", TERMINAL_REPORT, faults.status(REFUSED), times=None)


async def wait(context: ScenarioContext) -> None:
    """Leave the run as it is."""


async def stop_when_claimed(context: ScenarioContext) -> None:
    await context.wait_for_status("claimed")
    await context.stop()


async def stop_while_preparing(context: ScenarioContext) -> None:
    await context.proxy.seen("GET", DOWNLOAD, 2)
    await context.stop()


async def stop_when_executing(context: ScenarioContext) -> None:
    await context.command.started.pid()
    await context.wait_for_status("running")
    await context.stop()


async def settle(context: ScenarioContext) -> None:
    """Make the coordinator take the runner for gone, and its runs for failed."""
    (runner,) = await context.system.runners()
    await context.system.api.deregister(str(runner["runner_id"]))


async def stop_when_limit_is_over(context: ScenarioContext) -> None:
    await context.wait_for_log("waiting_for_limit → waiting_for_limit")
    await context.stop()


def spend(context: ScenarioContext) -> Steps:
    return [["bind"], ["metadata", {"usage": {"turns": 6}}], *held_by(context.command)]


def fall_silent(context: ScenarioContext) -> Steps:
    return [["bind"], *held_by(context.command)]


def result(_: ScenarioContext) -> Steps:
    return [["bind"], ["report"]]


async def stop_when_checked(context: ScenarioContext) -> None:
    await context.wait_for_log("→ checking_result")
    await context.stop()


EXPECTS_RESULT = {"lifecycle": "one_shot", "expect": ["result"]}

NOT_KILLED = [
    ("waiting_for_limit", "wait_failed", "superseded"),
    ("waiting", "wait_failed", "superseded"),
    ("waiting_for_limit", "interrupted", "recovering"),
    ("waiting", "interrupted", "recovering"),
    ("recovering", "found_open", "waiting_for_limit"),
    *transitions_of_state(load_machine("run").spec, "abandoning"),
]
"""A kill at the end of a wait for a limit takes the last one. `tests/integration/test_provider_limits.py`,
`tests/property/test_workflow_recovery.py` and `tests/unit/test_run_recovery.py` take the others. A kill leads to
`recovering`, which ends the run as well. `tests/property/test_recovery_machine.py` kills runners whose run another
one has got."""
WAITING = StepKillPoint("run", "waiting", "detail", "waiting", WRITTEN)
"""The visit of a workflow in which it waits is on disk."""
EXECUTING = StepKillPoint("run", "executing", "detail", "executing", WRITTEN)
SHORT_WAIT = workflow(
    WORKFLOW,
    work={"command": {"run": ["true"]}, "on_interrupted": "repeat", "on_done": "rest"},
    rest={"wait": {"for_s": 0.1}, "on_done": "check"},
    check={"command": {"run": ["true"]}, "on_interrupted": "repeat", "on_done": "completed"},
)
LONG_WAIT = workflow(WORKFLOW, {"budget": {"max_wall_s": 0.5}}, rest={"wait": {"for_s": 1000}, "on_done": "completed"})
ASKS = workflow(WORKFLOW, ask={"approval": {"question": "?"}, "on_done": "completed", "on_denied": "failed"})


async def stop_when_waiting(context: ScenarioContext) -> None:
    await context.wait_for_approval()
    await context.stop()


SCENARIOS = (
    Scenario(name="completes", arrange=bind_late, kills_at_every_write=True),
    Scenario(name="fails", agent="fails", status_if_run_again="failed"),
    Scenario(name="has nothing to start", agent="nothing", status_if_run_again="failed"),
    Scenario(name="has no workspace", project_dir="/nowhere/at/all", status_if_run_again="failed"),
    Scenario(name="is stopped when claimed", injected_faults=(HOLD_ACCEPT,), act=stop_when_claimed),
    Scenario(name="is stopped while preparing", agent=SCRIPT, arrange=hold_preparation, act=stop_while_preparing),
    Scenario(name="is stopped while executing", act=stop_when_executing, kills_at_every_write=True),
    Scenario(name="cannot be stopped", injected_faults=(BREAK_STOP,), act=stop_when_executing),
    Scenario(name="times out", flags=("--run-timeout", "0.2"), act=wait),
    Scenario(name="is not reported", arrange=refuse_reports),
    Scenario(name="was claimed", first_kill_point=on_entering("run", "claimed")),
    Scenario(name="was being prepared", first_kill_point=on_entering("run", "preparing_workspace")),
    Scenario(name="was executing", first_kill_point=on_entering("run", "executing")),
    Scenario(
        name="was being stopped",
        first_kill_point=on_entering("run", "stopping"),
        act_on_first_runner=stop_when_executing,
    ),
    Scenario(
        name="was executing and is then stopped",
        first_kill_point=on_entering("run", "executing"),
        between_runners=stop_when_claimed,
    ),
    Scenario(name="is settled meanwhile", first_kill_point=on_entering("run", "executing"), between_runners=settle),
    Scenario(
        name="is retried",
        first_kill_point=on_entering("run", "executing"),
        flags=("--run-timeout", "60"),
        profile={"retry_interrupted": True},
        kills_at_every_write=True,
    ),
    with_executor("waits for a limit", one_shot_limit),
    with_executor(
        "waits for a limit with a live executor", live_limit, profile={"revive": True}, kills_at_every_write=True
    ),
    with_executor("is held back at a limit", nothing, injected_faults=(OTHER_LIMIT,)),
    with_executor("is stopped while it waits", far_limit, act=stop_when_limited, status_if_run_again="stopped"),
    with_executor(
        "waits for too long", one_shot_limit, injected_faults=(SLOW_ADMISSION,), flags=("--limit-wait", "0.3")
    ),
    with_executor(
        "waits for a slot",
        session_limit,
        injected_faults=(SLOW_ADMISSION,),
        flags=("--limit-wait", "0.3"),
        act=stop_when_limit_is_over,
    ),
    with_executor("cannot wait", one_shot_limit, injected_faults=(BREAK_WAIT,)),
    with_executor("exceeds its budget while it waits", one_shot_limit, injected_faults=(EXCEED_BUDGET_WAITING,)),
    with_executor("waited for a limit", one_shot_limit, first_kill_point=ON_WAITING, act_on_first_runner=wait),
    with_executor("exceeds its budget", spend, flags=("--budget", "run.max_turns=5")),
    with_executor("falls silent", fall_silent, flags=("--silence-timeout", "0.5"), act=wait),
    with_executor("has its result checked", result, profile=EXPECTS_RESULT),
    with_executor("has its result rejected", nothing, profile=EXPECTS_RESULT, status_if_run_again="failed"),
    with_executor(
        "is stopped while its result is checked",
        result,
        profile=EXPECTS_RESULT,
        injected_faults=(HOLD_CHECK,),
        act=stop_when_checked,
    ),
    with_executor(
        "was being checked",
        result,
        profile=EXPECTS_RESULT,
        first_kill_point=on_entering("run", "checking_result"),
        act_on_first_runner=wait,
    ),
    Scenario(name="has a workflow that waits", workflow=SHORT_WAIT, kills_at_every_write=True),
    Scenario(name="had a workflow that waited", workflow=SHORT_WAIT, first_kill_point=WAITING),
    Scenario(name="had a workflow at work", workflow=SHORT_WAIT, first_kill_point=EXECUTING),
    Scenario(name="has a workflow that waits too long", workflow=LONG_WAIT, status_if_run_again="failed"),
    Scenario(
        name="is stopped while its workflow waits", workflow=ASKS, act=stop_when_waiting, status_if_run_again="stopped"
    ),
    Scenario(
        name="exceeds its budget while its workflow waits",
        workflow=SHORT_WAIT,
        injected_faults=(EXCEED_BUDGET_IN_WORKFLOW,),
    ),
    Scenario(name="has a workflow that cannot wait", workflow=SHORT_WAIT, injected_faults=(BREAK_WORKFLOW_WAIT,)),
)

SUITE = ScenarioSuite("run", SCENARIOS)


async def test_the_scenarios_cover_every_transition_of_a_run(tmp_path: Path) -> None:
    async with crash_harness(SUITE, tmp_path) as harness:
        taken = await harness.transitions_of(SCENARIOS)
    missing = short_transitions(load_machine("run").spec, NOT_KILLED).difference(*taken)
    assert not missing, f"no scenario takes {sorted(missing)}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_run_ends_once_if_its_runner_is_killed_and_it(tmp_path: Path, scenario: Scenario) -> None:
    async with crash_harness(SUITE, tmp_path) as harness:
        defects = await harness.defects(scenario)
    assert not defects, "\n\n".join(defects)
