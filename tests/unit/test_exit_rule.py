"""Runners that end by themselves: after a number of runs, or when they are idle."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from fsm_runner.coordinator_client.api import Polled
from fsm_runner.coordinator_client.errors import NoConnection, Unreachable
from fsm_runner.coordinator_client.policy import POLL_MARGIN_S
from fsm_runner.journal.records import OpenRun
from fsm_runner.protocol import wire
from fsm_runner.runtime.control.exit_rule import ExitRule
from tests.support.fake_api import ME, FakeApi, PollAnswer, now_s
from tests.support.polling import PollingRunner, polling_runner
from tests.support.virtual_time import in_virtual_time

RUNS = [wire.Run(run_id=f"run_{number}", session_id=f"ses_{number}") for number in range(3)]
POLL_S, IDLE_S = 30.0, 70.0


async def ends(runner: PollingRunner, *runs: wire.Run) -> None:
    for run in runs:
        runner.runs.stop_run(run.run_id, "the test ends it")
    await asyncio.sleep(0.1)


def drains(runner: PollingRunner) -> bool:
    return "drain_requested" in runner.posts


@in_virtual_time
async def test_the_runner_claims_n_runs_and_drains_when_all_of_them_have_ended() -> None:
    api = FakeApi(Polled(run=run) for run in RUNS)
    async with polling_runner(api, exit_rule=ExitRule(after_runs=2)) as runner:
        await asyncio.sleep(100)
        assert runner.executor.begun == ["run_0", "run_1"]
        await ends(runner, RUNS[0])
        assert not drains(runner)
        await ends(runner, RUNS[1])
        assert drains(runner)
    assert len(api.polled_at_s) == 2


@in_virtual_time
async def test_a_resumed_run_counts() -> None:
    api = FakeApi(Polled(run=run) for run in RUNS)
    async with polling_runner(api, exit_rule=ExitRule(after_runs=1)) as runner:
        runner.runs.resume(
            OpenRun(
                run=msgspec.json.encode(wire.Run(run_id="run_9", session_id="ses_9")),
                run_id="run_9",
                session_id="ses_9",
                runner_id=ME,
                state="claimed",
                outcome=None,
                failure="",
                report=None,
                interruptions=0,
            )
        )
        await asyncio.sleep(10)
        assert runner.executor.begun == []
        assert drains(runner)
    assert api.polled_at_s == []


@in_virtual_time
async def test_a_lost_claim_is_looked_for_before_the_end_and_started() -> None:
    api = FakeApi([Unreachable("reset"), Polled(run=RUNS[0])])
    async with polling_runner(api, exit_rule=ExitRule(after_runs=1)) as runner:
        await asyncio.sleep(2)
        await ends(runner, RUNS[0])
        assert not drains(runner)
        api.claim_answers = [[RUNS[1]]]
        await asyncio.sleep(5)
        assert runner.executor.begun == ["run_0", "run_1"]
        await ends(runner, RUNS[1])
        assert not drains(runner)
        await asyncio.sleep(POLL_S + POLL_MARGIN_S)
        assert drains(runner)
    assert len(api.polled_at_s) == 2


@in_virtual_time
async def test_the_idle_time_begins_with_the_end_of_a_run_and_ends_with_a_poll() -> None:
    api = FakeApi([Polled(run=RUNS[0]), *(later(POLL_S * number) for number in range(1, 6))])
    async with polling_runner(api, exit_rule=ExitRule(when_idle_s=IDLE_S)) as runner:
        await asyncio.sleep(25)
        await ends(runner, RUNS[0])
        await asyncio.sleep(4 * POLL_S - now_s() - 1)
        assert not drains(runner)
        await asyncio.sleep(2)
        assert drains(runner)
    assert len(api.polled_at_s) == 5


@in_virtual_time
async def test_an_idle_runner_starts_the_run_of_its_last_poll() -> None:
    api = FakeApi([later(IDLE_S + 1, Polled(run=RUNS[0]))])
    async with polling_runner(api, exit_rule=ExitRule(when_idle_s=IDLE_S)) as runner:
        await asyncio.sleep(2 * IDLE_S)
        assert runner.executor.begun == ["run_0"]
        assert not drains(runner)


@pytest.mark.parametrize(("fault", "polls_after"), [(NoConnection("refused"), 1), (Unreachable("502"), 2)])
@in_virtual_time
async def test_an_outage_ends_no_runner_but_an_empty_poll_after_it_does(
    fault: Unreachable | NoConnection, polls_after: int
) -> None:
    """A poll that broke may have lost a run, so the runner waits until that poll is over at the coordinator."""

    def polls() -> Iterator[PollAnswer]:
        while now_s() < 2 * IDLE_S:
            yield fault
        for number in range(1, 4):
            yield later(2 * IDLE_S + number * POLL_S)

    async with polling_runner(FakeApi(polls()), exit_rule=ExitRule(when_idle_s=IDLE_S)) as runner:
        await asyncio.sleep(2 * IDLE_S + polls_after * POLL_S - 1)
        assert not drains(runner)
        await asyncio.sleep(2)
        assert drains(runner)


def later(at_s: float, polled: Polled = Polled()) -> PollAnswer:  # noqa: B008 - it is frozen
    """The answer of a poll that the coordinator holds until this time."""
    answer: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_at(at_s, answer.set_result, polled)
    return answer
