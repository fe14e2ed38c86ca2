"""A runner that is killed with SIGKILL at any point of its own life: what it had is ended and told by the next one."""

import signal
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.doomed_runner import SHORT_OF_DESCRIPTORS
from tests.support.faults import Answer
from tests.support.proxy import POLL
from tests.support.stage import REGISTER, Scenario, Stage
from tests.support.theatre import Repertoire, theatre

NOT_REGISTERED = faults.instead("not registered", Answer(401, b'{"detail": "Runner not registered"}'))
HEARTBEAT = "/runner/heartbeat"
OUTAGE_S = "0.3"
SHORT_GRACE_S = "0.3"


def lose_polls(stage: Stage) -> None:
    stage.proxy.fault("GET", POLL, faults.reset(), times=3)


def lose_every_call_of_the_line(stage: Stage) -> None:
    stage.proxy.fault("POST", HEARTBEAT, faults.reset(), times=None)
    stage.proxy.fault("GET", POLL, faults.delay(0))
    stage.proxy.fault("GET", POLL, faults.delay(0))
    stage.proxy.fault("GET", POLL, faults.reset(), times=None)


def forget_the_runner(stage: Stage) -> None:
    stage.proxy.fault("GET", POLL, NOT_REGISTERED)


def refuse_the_runner(stage: Stage) -> None:
    stage.proxy.fault("POST", REGISTER, faults.status(400))


async def complete_after_polls(stage: Stage) -> None:
    await stage.proxy.seen("GET", POLL, 5)
    stage.let_go()


async def complete_until_online(stage: Stage) -> None:
    stage.let_go()
    # It polls again then, and conditions are looked at with each call.
    await stage.proxy.wait_for(lambda: any("saturated → online" in line for line in stage.log), "descriptors")


async def leave_at_work(stage: Stage) -> None:
    await stage.command.started.pid()
    await stage.signal(signal.SIGTERM)
    await stage.ended()


async def hurry(stage: Stage) -> None:
    await stage.command.started.pid()
    # Different ones: two of a kind may arrive as one.
    await stage.signal(signal.SIGTERM, signal.SIGINT)
    await stage.ended()


async def end_by_itself(stage: Stage) -> None:
    stage.let_go()
    await stage.ended()


SCENARIOS = (
    Scenario(name="is asked to leave"),
    Scenario(name="is cut off", arrange=lose_polls, provoke=complete_after_polls),
    Scenario(name="is forgotten", arrange=forget_the_runner),
    Scenario(name="leaves at the end of its grace", provoke=leave_at_work, flags=("--grace-period", SHORT_GRACE_S)),
    Scenario(name="is hurried", provoke=hurry),
    Scenario(name="is refused", arrange=refuse_the_runner, provoke=end_by_itself),
    Scenario(name="has few descriptors", provoke=complete_until_online, broken=(SHORT_OF_DESCRIPTORS,)),
    Scenario(
        name="leaves while it has few descriptors",
        provoke=leave_at_work,
        flags=("--grace-period", SHORT_GRACE_S),
        broken=(SHORT_OF_DESCRIPTORS,),
    ),
    Scenario(
        name="is cut off for too long",
        arrange=lose_every_call_of_the_line,
        provoke=end_by_itself,
        flags=("--exit-after-outage", OUTAGE_S),
        is_healed=True,
    ),
)
RUNNERS = Repertoire("runner", SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_run_ends_once_where_its_runner_is_killed_while_it(tmp_path: Path, scenario: Scenario) -> None:
    async with theatre(RUNNERS, tmp_path) as stage:
        assert await stage.triples(scenario)
        defects = await stage.defects(scenario)
    assert not defects, "\n\n".join(defects)
