"""A runner is killed with SIGKILL at each point of its own machine. Its successor ends and reports its runs."""

import signal
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.crash.harness import ScenarioSuite, crash_harness
from tests.support.crash.limits import ON_WAITING, one_shot_limit, with_executor
from tests.support.crash.runner_program import FEW_DESCRIPTORS
from tests.support.crash.scenario import REGISTER, Scenario, ScenarioContext, Steps
from tests.support.faults import Answer
from tests.support.proxy import POLL

pytestmark = pytest.mark.slow

NOT_REGISTERED = faults.instead("not registered", Answer(401, b'{"detail": "Runner not registered"}'))
HEARTBEAT = "/runner/heartbeat"
OUTAGE_S = "0.3"
SHORT_GRACE_S = "0.3"


def lose_polls(context: ScenarioContext) -> None:
    context.proxy.fault("GET", POLL, faults.reset(), times=3)


def lose_every_control_call(context: ScenarioContext) -> None:
    context.proxy.fault("POST", HEARTBEAT, faults.reset(), times=None)
    context.proxy.fault("GET", POLL, faults.delay(0))
    context.proxy.fault("GET", POLL, faults.delay(0))
    context.proxy.fault("GET", POLL, faults.reset(), times=None)


def forget_the_runner(context: ScenarioContext) -> None:
    context.proxy.fault("GET", POLL, NOT_REGISTERED)


def refuse_the_runner(context: ScenarioContext) -> None:
    context.proxy.fault("POST", REGISTER, faults.status(400))


async def wait(context: ScenarioContext) -> None:
    """Leave the runner as it is."""


async def complete_after_polls(context: ScenarioContext) -> None:
    await context.proxy.seen("GET", POLL, 5)
    context.release()


async def complete_until_online(context: ScenarioContext) -> None:
    context.release()
    # The runner polls again then, and the proxy checks the condition with each call.
    await context.proxy.wait_for(lambda: any("saturated → online" in line for line in context.log), "descriptors")


async def drain_during_a_run(context: ScenarioContext) -> None:
    await context.command.started.pid()
    await context.signal(signal.SIGTERM)
    await context.exit_code()


async def drain_then_stop_now(context: ScenarioContext) -> None:
    await context.command.started.pid()
    # Two signals of the same kind could arrive as one.
    await context.signal(signal.SIGTERM, signal.SIGINT)
    await context.exit_code()


async def end_by_itself(context: ScenarioContext) -> None:
    context.release()
    await context.exit_code()


async def drain_when_limited(context: ScenarioContext) -> None:
    await context.wait_until_limited()
    await context.shut_down()


def soon_reset_limit(_: ScenarioContext) -> Steps:
    """Meet a limit that lasts longer than a drain takes."""
    return [["bind"], ["limit", 2.0], ["exit", 1]]


SCENARIOS = (
    Scenario(name="drains"),
    Scenario(name="is disconnected", arrange=lose_polls, act=complete_after_polls),
    Scenario(name="is forgotten", arrange=forget_the_runner),
    Scenario(name="exceeds its grace period", act=drain_during_a_run, flags=("--grace-period", SHORT_GRACE_S)),
    Scenario(name="must stop now", act=drain_then_stop_now),
    Scenario(name="is refused", arrange=refuse_the_runner, act=end_by_itself),
    Scenario(name="has few descriptors", act=complete_until_online, injected_faults=(FEW_DESCRIPTORS,)),
    Scenario(
        name="drains with few descriptors",
        act=drain_during_a_run,
        flags=("--grace-period", SHORT_GRACE_S),
        injected_faults=(FEW_DESCRIPTORS,),
    ),
    Scenario(
        name="is disconnected for too long",
        arrange=lose_every_control_call,
        act=end_by_itself,
        flags=("--exit-after-outage", OUTAGE_S),
        network_recovers=True,
    ),
    with_executor("is limited", one_shot_limit),
    with_executor("was limited", one_shot_limit, first_kill_point=ON_WAITING, act_on_first_runner=wait),
    with_executor("drains while it is limited", soon_reset_limit, act=drain_when_limited),
)
SUITE = ScenarioSuite("runner", SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_run_ends_once_if_its_runner_is_killed_while_it(tmp_path: Path, scenario: Scenario) -> None:
    async with crash_harness(SUITE, tmp_path) as harness:
        assert await harness.transitions_taken(scenario)
        defects = await harness.defects(scenario)
    assert not defects, "\n\n".join(defects)
