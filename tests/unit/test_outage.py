"""An outage that lasts too long is noticed once, and what the runner makes of it."""

import asyncio
from collections.abc import Iterator

import pytest

from fsm_runner.coordinator.client import CoordinatorClient
from fsm_runner.coordinator.faults import DuplicateRunner, Unreachable
from fsm_runner.coordinator.wire import Registered, Registration, RegistrationConflict
from fsm_runner.lifecycle.machines import load_machine
from fsm_runner.lifecycle.outage import OutageWatch
from tests.support.line import REGISTRATION, FakeApi, PollAnswer, line
from tests.support.virtual_time import in_virtual_time

RUNNER = load_machine("runner")


class Told:
    def __init__(self, limit_s: float | None) -> None:
        self.at_s: list[float] = []
        self.reasons: list[str] = []
        self.watch = OutageWatch(limit_s, self._tell)

    def _tell(self, reason: str) -> None:
        self.at_s.append(asyncio.get_running_loop().time())
        self.reasons.append(reason)


@in_virtual_time
async def test_an_outage_is_told_once_however_many_calls_fail() -> None:
    told = Told(60)
    for _ in range(30):
        told.watch.unanswered()
        await asyncio.sleep(10)
    assert told.at_s == [60]
    assert told.reasons == ["the coordinator has not answered for 60 s"]


@in_virtual_time
async def test_an_answer_ends_the_outage_and_the_next_one_is_told_again() -> None:
    told = Told(60)
    told.watch.unanswered()
    await asyncio.sleep(59)
    told.watch.answered()
    await asyncio.sleep(100)
    assert told.at_s == []
    told.watch.unanswered()
    await asyncio.sleep(100)
    told.watch.answered()
    told.watch.unanswered()
    await asyncio.sleep(100)
    assert told.at_s == [219, 319]


@in_virtual_time
async def test_without_a_limit_nothing_is_ever_told() -> None:
    told = Told(None)
    told.watch.unanswered()
    await asyncio.sleep(1e6)
    assert told.at_s == []


@in_virtual_time
async def test_answers_without_an_outage_change_nothing() -> None:
    told = Told(60)
    told.watch.answered()
    await asyncio.sleep(100)
    assert told.at_s == []


@pytest.mark.parametrize(("away_s", "times"), [(50, 0), (100, 1), (1000, 1)])
@in_virtual_time
async def test_a_line_that_is_dead_for_too_long_is_told_once(away_s: float, times: int) -> None:
    api = FakeApi(_away(away_s))
    api.silent_until_s = away_s
    async with line(api, outage_limit_s=70) as made:
        await asyncio.sleep(away_s + 100)
    assert made.posts.count("outage_too_long") == times


def _away(away_s: float) -> Iterator[PollAnswer]:
    while asyncio.get_running_loop().time() < away_s:
        yield Unreachable("reset")


@pytest.mark.parametrize("state", ["registering", "online", "cut_off", "suspended"])
def test_a_runner_gives_up_after_an_outage_that_is_too_long(state: str) -> None:
    model = RUNNER.model()
    model.state = state
    for event in ("outage_too_long", "runs_ended", "not_deregistered"):
        RUNNER.fire(model, event)
    assert (model.state, model.outcome) == ("gave_up", "gave_up")


@in_virtual_time
async def test_a_coordinator_that_refuses_a_second_runner_of_an_identity_is_not_away() -> None:
    class Occupied(FakeApi):
        faults = iter([Unreachable("refused")])

        async def register(self, registration: Registration) -> Registered:
            raise next(self.faults, DuplicateRunner("online", RegistrationConflict(error="duplicate_runner")))

    told = Told(60)
    client = CoordinatorClient(Occupied())  # type: ignore[arg-type] # of the API it needs this much
    client.on_away, client.on_answer = told.watch.unanswered, told.watch.answered
    with pytest.raises(DuplicateRunner):
        await client.register(REGISTRATION)
    assert asyncio.get_running_loop().time() > 600
    assert told.at_s == []
