"""The outage timer, and the poller and the runner during outages."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from fsm_runner.coordinator_client.api import Polled
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import DuplicateRunner, Unreachable
from fsm_runner.coordinator_client.policy import REGISTRATION_LOG_INTERVAL_S, Policies
from fsm_runner.protocol.error_bodies import ErrorDetail
from fsm_runner.protocol.wire import Registered, Registration
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.runner import PollTimes
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.util.retry import RetryPolicy
from tests.support.fake_api import ME, REGISTERED, FakeApi, PollAnswer
from tests.support.logs import log_lines
from tests.support.polling import REGISTRATION, polling_runner
from tests.support.virtual_time import in_virtual_time

RUNNER = load_machine("runner")
POLICIES_OF_A_SECOND = Policies(register=RetryPolicy(base_s=1, cap_s=1))
RARE_BEATS = Registered(runner_id=ME, poll_timeout_seconds=30, heartbeat_interval_seconds=1000)
RARE_BEATS_TIMES = PollTimes(poll_timeout_s=30, heartbeat_interval_s=1000)


async def no_answer() -> bool:
    return False


class Told:
    """A running outage timer and its reports."""

    def __init__(self, limit_s: float | None, is_answered: Callable[[], Awaitable[bool]] = no_answer) -> None:
        self.at_s: list[float] = []
        self.reasons: list[str] = []
        self.timer = OutageTimer(limit_s, self._tell)
        self._is_answered = is_answered

    async def __aenter__(self) -> "Told":
        self._running = asyncio.create_task(self.timer.run(self._is_answered))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])

    def _tell(self, reason: str) -> None:
        self.at_s.append(asyncio.get_running_loop().time())
        self.reasons.append(reason)


@in_virtual_time
async def test_an_outage_is_reported_once_however_many_calls_fail() -> None:
    async with Told(60) as received:
        for _ in range(30):
            received.timer.unanswered()
            await asyncio.sleep(10)
        assert received.at_s == [60]
        assert received.reasons == ["the coordinator has not answered for 60 s"]


@in_virtual_time
async def test_the_limit_applies_if_the_confirming_heartbeat_has_a_defect() -> None:
    async def broken() -> bool:
        raise RuntimeError("a defect")

    async with Told(60, broken) as received:
        received.timer.unanswered()
        await asyncio.sleep(61)
        assert received.reasons == ["the coordinator has not answered for 60 s"]


@in_virtual_time
async def test_an_answer_ends_the_outage_and_the_next_one_is_reported_again() -> None:
    async with Told(60) as received:
        received.timer.unanswered()
        await asyncio.sleep(59)
        received.timer.answered()
        await asyncio.sleep(100)
        assert received.at_s == []
        received.timer.unanswered()
        await asyncio.sleep(100)
        received.timer.answered()
        received.timer.unanswered()
        await asyncio.sleep(100)
        assert received.at_s == [219, 319]


@in_virtual_time
async def test_without_a_limit_nothing_is_ever_reported() -> None:
    async with Told(None) as received:
        received.timer.unanswered()
        await asyncio.sleep(1e6)
        assert received.at_s == []


@in_virtual_time
async def test_answers_without_an_outage_change_nothing() -> None:
    async with Told(60) as received:
        received.timer.answered()
        await asyncio.sleep(100)
        assert received.at_s == []


@pytest.mark.parametrize(("away_s", "times"), [(50, 0), (100, 1), (1000, 1)])
@in_virtual_time
async def test_an_outage_of_all_control_calls_is_reported_once(away_s: float, times: int) -> None:
    api = FakeApi(_away(away_s))
    api.silent_until_s = away_s
    async with polling_runner(api, outage_limit_s=70) as runner:
        await asyncio.sleep(away_s + 100)
    assert runner.posts.count("outage_too_long") == times


def _away(away_s: float) -> Iterator[PollAnswer]:
    while asyncio.get_running_loop().time() < away_s:
        yield Unreachable("reset")


@pytest.mark.parametrize("state", ["registering", "online", "disconnected", "suspended"])
def test_a_runner_gives_up_after_an_outage_that_is_too_long(state: str) -> None:
    model = RUNNER.model()
    model.state = state
    for event in ("outage_too_long", "runs_ended", "reports_flushed", "departed"):
        RUNNER.fire(model, event)
    assert (model.state, model.outcome) == ("gave_up", "gave_up")


@in_virtual_time
async def test_a_coordinator_that_refuses_a_second_runner_of_an_identity_is_not_away() -> None:
    class Occupied(FakeApi):
        faults = iter([Unreachable("refused")])

        async def register(self, registration: Registration) -> Registered:
            raise next(self.faults, DuplicateRunner("online", ErrorDetail(error="duplicate_runner")))

    loop = asyncio.get_running_loop()
    async with Told(60) as received:
        client = CoordinatorClient(
            Occupied(),  # type: ignore[arg-type]  # it has the methods that are called
            now=loop.time,
            on_unanswered=received.timer.unanswered,
            on_answered=received.timer.answered,
        )
        with log_lines() as lines, pytest.raises(DuplicateRunner):
            await client.register(REGISTRATION)
    assert loop.time() > 600
    warnings = [text for text in lines if "forgets it 120 to 150 s after its last heartbeat" in text]
    intervals = loop.time() / REGISTRATION_LOG_INTERVAL_S
    assert intervals - 5 < len(warnings) <= intervals + 1
    assert received.at_s == []


@in_virtual_time
async def test_a_registration_that_fails_for_long_is_logged_at_first_and_then_every_30_s() -> None:
    class Away(FakeApi):
        async def register(self, registration: Registration) -> Registered:
            if loop.time() < 100:
                raise Unreachable("POST http://coordinator/runner/register: refused")
            return REGISTERED

    loop = asyncio.get_running_loop()
    client = CoordinatorClient(Away(), POLICIES_OF_A_SECOND)  # type: ignore[arg-type]  # it has the methods that are called
    with log_lines() as lines:
        await client.register(REGISTRATION)
    assert len(lines) == 4
    assert all(line.startswith("registration failed, retrying in ") for line in lines)


class CutApi(FakeApi):
    """A coordinator behind a proxy that answers each poll with 504 after `after_s`."""

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self._after_s = after_s

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        self.polled_at_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._after_s)
        raise Unreachable("GET http://coordinator/runner/runs: HTTP 504", 504)


@pytest.mark.parametrize("after_s", [4.0, 0.1], ids=["after 4 s", "at once"])
@in_virtual_time
async def test_a_proxy_that_cuts_polls_is_no_outage_while_heartbeats_are_answered(after_s: float) -> None:
    api = CutApi(after_s)
    with log_lines("WARNING") as warnings:
        async with polling_runner(api, outage_limit_s=12, registered=RARE_BEATS, times=RARE_BEATS_TIMES) as runner:
            await asyncio.sleep(60)
    assert set(runner.posts) == {"coordinator_answered"}
    (said,) = warnings
    assert f"polls are cut after {after_s:.1f} s" in said
    assert "poll, which may take 30 s; raise that time-out above 45 s" in said
    assert len(api.polled_at_s) >= (14 if after_s == 4.0 else 4)


@in_virtual_time
async def test_the_log_does_not_warn_of_one_broken_poll() -> None:
    broken: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(20, broken.set_exception, Unreachable("reset"))
    with log_lines("WARNING") as warnings:
        async with polling_runner(FakeApi([broken])) as runner:
            await asyncio.sleep(60)
    assert "coordinator_lost" not in runner.posts
    assert warnings == []


@in_virtual_time
async def test_polls_that_fail_at_once_are_no_outage_while_a_heartbeat_is_answered() -> None:
    api = FakeApi(Unreachable("500") for _ in range(1000))
    async with polling_runner(api, outage_limit_s=12, registered=RARE_BEATS, times=RARE_BEATS_TIMES) as runner:
        await asyncio.sleep(100)
    assert "outage_too_long" not in runner.posts
    assert runner.posts.count("coordinator_lost") > 1
    assert 4 <= len(api.beaten) <= 9


@pytest.mark.parametrize("is_back", [True, False])
@in_virtual_time
async def test_an_answer_during_the_last_heartbeat_ends_the_outage(is_back: bool) -> None:
    heartbeat: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def send() -> bool:
        return await heartbeat

    async with Told(12, send) as received:
        received.timer.unanswered()
        await asyncio.sleep(13)
        assert received.reasons == []
        if is_back:
            received.timer.answered()
        received.timer.unanswered()
        heartbeat.set_result(False)
        await asyncio.sleep(100)
        assert received.reasons == ([] if is_back else ["the coordinator has not answered for 12 s"])
