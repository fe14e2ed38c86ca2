"""How often the poller and the heartbeat call the coordinator, and what follows from the responses."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import NotRegistered, Unreachable
from fsm_runner.coordinator_client.policy import POLL_HOLD_LIMIT_S, RUN_LOOKUP_INTERVAL_S, STALE_AFTER_S
from fsm_runner.protocol import wire
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.runtime.actors.runner import PollTimes
from tests.support.fake_api import ME, REGISTERED, FakeApi
from tests.support.logs import log_lines
from tests.support.polling import REGISTRATION, RUN, STOP, PollingRunner, polling_runner
from tests.support.virtual_time import in_virtual_time

POLLS_IN_10_S = 60
"""A bound for a coordinator that answers at once. The pauses are half a second on average, so a third is expected."""
AFTER_REGISTRATION = ["claims", "look up"]


@pytest.mark.parametrize(
    ("named_s", "configured_s", "held_s"),
    [(30, 10, 30), (10, 30, 30), (1e9, 10, POLL_HOLD_LIMIT_S), (10, 1e9, POLL_HOLD_LIMIT_S)],
    ids=["named", "configured", "named without bound", "configured without bound"],
)
@in_virtual_time
async def test_a_poll_is_held_for_the_longer_of_both_times_up_to_the_limit(
    named_s: float, configured_s: float, held_s: float
) -> None:
    api = FakeApi()
    registered = wire.Registered(runner_id=ME, poll_timeout_seconds=named_s)
    times = PollTimes(poll_timeout_s=configured_s, heartbeat_interval_s=10)
    async with polling_runner(api, registered=registered, times=times):
        await asyncio.sleep(1)
    assert api.hold_s == [held_s]


@pytest.mark.parametrize(
    "answer",
    [
        Polled(),
        Polled(stop_sessions=(RUN.session_id,)),
        Polled(run=RUN),
        Polled(run=UnreadableRun("run_9", "no session")),
    ],
    ids=["nothing", "the same stop", "a known run", "an unreadable run"],
)
@in_virtual_time
async def test_polls_that_are_answered_at_once_without_a_new_run_are_no_hot_loop(answer: Polled) -> None:
    api = FakeApi(itertools.repeat(answer))
    async with polling_runner(api):
        await asyncio.sleep(10)
    assert 3 < len(api.polled_at_s) < POLLS_IN_10_S


@in_virtual_time
async def test_new_runs_are_fetched_one_after_another_without_a_wait() -> None:
    api = FakeApi(Polled(run=wire.Run(run_id=f"run_{number}", session_id=f"ses_{number}")) for number in range(100))
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert len(runner.runs) == 100
    assert api.polled_at_s == [0.0] * 101


@in_virtual_time
async def test_a_new_run_resets_the_pauses_after_early_answers() -> None:
    def answers() -> Iterator[Polled]:
        yield from itertools.repeat(Polled(), 20)
        for number in range(20):
            yield Polled(run=wire.Run(run_id=f"run_{number}", session_id=f"ses_{number}"))
            yield Polled()

    api = FakeApi(answers())
    async with polling_runner(api):
        await asyncio.sleep(60)
    assert len(api.polled_at_s) == 61
    # Each of the last 20 empty answers is the first one after a run: its wait is at most 0.05 s.
    assert api.polled_at_s[-1] - api.polled_at_s[20] <= 20 * 0.05


@pytest.mark.parametrize(("silent_s", "lost"), [(STALE_AFTER_S * 0.7, 0), (STALE_AFTER_S * 1.5, 1)])
@in_virtual_time
async def test_a_heartbeat_after_a_long_silence_reports_the_registration_as_lost(silent_s: float, lost: int) -> None:
    api = FakeApi()
    api.silent_until_s = silent_s
    async with polling_runner(api) as runner:
        await asyncio.sleep(silent_s + 60)
    assert len(api.beaten) > 1
    assert runner.posts.count("registration_lost") == lost
    assert runner.posts[-1] == "coordinator_answered"


@pytest.mark.parametrize("registers", [True, False])
@in_virtual_time
async def test_a_poll_answered_not_registered_is_ignored_after_a_newer_registration(registers: bool) -> None:
    answer: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    api = FakeApi([answer])
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        if registers:
            await runner.register_again()
        answer.set_exception(NotRegistered("401"))
        await asyncio.sleep(0.5)
        assert runner.posts == ([] if registers else ["registration_lost"])


@pytest.mark.parametrize("registers", [True, False])
@in_virtual_time
async def test_a_heartbeat_answered_not_registered_is_ignored_after_a_newer_registration(
    registers: bool,
) -> None:
    api = FakeApi()
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    api.answers.append(answer)
    async with polling_runner(api) as runner:
        await asyncio.sleep(11)
        assert not api.answers
        if registers:
            await runner.register_again()
        answer.set_exception(NotRegistered("401"))
        await asyncio.sleep(0.5)
        assert runner.posts == ([] if registers else ["registration_lost"])


@pytest.mark.parametrize("registers", [True, False])
@in_virtual_time
async def test_a_report_answered_not_registered_is_repeated_and_requests_a_registration_unless_one_is_newer(
    registers: bool,
) -> None:
    api = FakeApi()
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    api.answers.append(answer)
    received: list[str] = []
    client = CoordinatorClient(api, on_registration_lost=lambda: received.append("lost"))  # type: ignore[arg-type] # as above
    delivering = asyncio.create_task(MessageSender(client).deliver(OutboundMessage("/completed", b"{}")))
    await asyncio.sleep(1)
    if registers:
        await client.register(REGISTRATION)
    answer.set_exception(NotRegistered("401"))
    await delivering
    assert api.delivered == ["/completed"]
    assert received == ([] if registers else ["lost"])


@in_virtual_time
async def test_stops_are_looked_up_after_a_failed_poll_before_the_next_one() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.stop_answers = [[], [STOP]]
    async with polling_runner(api):
        await asyncio.sleep(20)
    assert api.calls[:7] == [*AFTER_REGISTRATION, "poll", "poll", "claims", "look up", "poll"]
    assert api.delivered[-1] == f"/runner/runs/{RUN.run_id}/stopped"


@in_virtual_time
async def test_stops_are_looked_up_until_a_look_up_is_answered() -> None:
    answer: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1 + RUN_LOOKUP_INTERVAL_S, answer.set_result, Polled())
    api = FakeApi([Polled(run=RUN), Unreachable("reset"), answer])
    api.stop_answers = [[], Unreachable("reset"), [STOP]]
    async with polling_runner(api):
        await asyncio.sleep(20)
    assert api.calls[:10] == [
        *AFTER_REGISTRATION,
        "poll",
        "poll",
        "claims",
        "look up",
        "poll",
        "claims",
        "look up",
        "poll",
    ]
    assert api.delivered[-1] == f"/runner/runs/{RUN.run_id}/stopped"


@in_virtual_time
async def test_a_stop_reaches_a_run_of_a_full_runner() -> None:
    api = FakeApi([Polled(run=RUN)])
    api.stop_answers = [[], [], [], [STOP]]
    async with polling_runner(api, max_runs=1):
        await asyncio.sleep(20)
    assert api.calls[:6] == [*AFTER_REGISTRATION, "poll", "look up", "look up", "look up"]
    assert api.calls[-1] == "poll"
    assert api.delivered[-1] == f"/runner/runs/{RUN.run_id}/stopped"


@pytest.mark.parametrize("owner", ["runner_other", None])
@in_virtual_time
async def test_a_stop_for_another_runner_is_ignored(owner: str | None) -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.stop_answers = [[], [wire.StopRequest(run_id=RUN.run_id, session_id=RUN.session_id, runner_id=owner)]]
    async with polling_runner(api) as runner:
        await asyncio.sleep(20)
        assert len(runner.runs) == 1
    assert not api.stop_answers


@in_virtual_time
async def test_a_stop_without_a_valid_run_id_is_skipped() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    no_ids = [deep, 1, None, "", "x" * 2000]
    bad = [wire.StopRequest(run_id=each, session_id="s", runner_id=ME) for each in no_ids]
    api.stop_answers = [[], [*bad, STOP]]
    async with polling_runner(api):
        await asyncio.sleep(20)
    assert api.delivered == [f"/runner/runs/{RUN.run_id}/{report}" for report in ("started", "stopped")]


@in_virtual_time
async def test_a_defect_of_an_activity_ends_the_poller_with_its_exception() -> None:
    class DefectiveApi(FakeApi):
        async def poll(self, runner_id: str, hold_s: float) -> Polled:
            raise RuntimeError("a defect")

    polling = PollingRunner(DefectiveApi())
    polling.set_registration(REGISTERED)
    with log_lines(), pytest.raises(RuntimeError, match="a defect"):
        await polling.poller.live()


@in_virtual_time
async def test_a_poll_that_is_held_survives_the_course_and_is_given_up_only_when_the_poller_closes() -> None:
    api = FakeApi()
    polling = PollingRunner(api)
    polling.set_registration(REGISTERED)
    living = asyncio.create_task(polling.poller.live())
    await asyncio.sleep(1)
    polling.leave()
    waiting = asyncio.create_task(polling.poller.no_poll_held.wait())
    await asyncio.sleep(100)
    assert not waiting.done()
    polling.poller.close()
    await asyncio.wait([living, waiting])
    assert len(api.polled_at_s) == 1
