"""The report of an ended run is sent again on request, at growing intervals."""

import asyncio
import itertools

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.runtime.actors import ended_runs
from fsm_runner.runtime.actors.ended_runs import EndedRuns
from fsm_runner.util.retry import RetryPolicy
from tests.support.fake_api import FakeApi, now_s
from tests.support.logs import log_lines
from tests.support.polling import RUN, polling_runner
from tests.support.virtual_time import in_virtual_time

REPORT = messages.failed("run_1", "runner_me", "broken", provisional=True)
POLICY = RetryPolicy(base_s=2, cap_s=600)
DAY_S = 24 * 3600.0


class Told:
    """The times at which each report was sent again."""

    def __init__(self, policy: RetryPolicy = POLICY) -> None:
        self.at_s: list[float] = []
        self.runs = EndedRuns(policy, self._note)

    def _note(self, run_id: str, report: OutboundMessage) -> None:
        assert (run_id, report) == ("run_1", REPORT)
        self.at_s.append(now_s())


@in_virtual_time
async def test_the_first_request_is_answered_at_once_and_later_ones_at_growing_intervals() -> None:
    received = Told()
    received.runs.add("run_1", REPORT)
    began_s = now_s()
    for _ in range(int(DAY_S)):
        received.runs.resend("run_1")
        await asyncio.sleep(1)
    assert received.at_s[0] == began_s
    assert 100 < len(received.at_s) < 1_000
    assert max(later - earlier for earlier, later in itertools.pairwise(received.at_s)) <= POLICY.cap_s + 1
    received.runs.close()


@in_virtual_time
async def test_a_request_that_comes_too_early_is_answered_later() -> None:
    received = Told(RetryPolicy(base_s=1_000, cap_s=1_000))
    received.runs.add("run_1", REPORT)
    received.runs.resend("run_1")
    received.runs.resend("run_1")
    await asyncio.sleep(1_001)
    assert len(received.at_s) == 2
    await asyncio.sleep(10_000)
    assert len(received.at_s) == 2


@in_virtual_time
async def test_a_forgotten_run_is_not_reported() -> None:
    received = Told(RetryPolicy(base_s=1_000, cap_s=1_000))
    received.runs.add("run_1", REPORT)
    received.runs.resend("run_1")
    received.runs.resend("run_1")
    for number in range(ended_runs.REMEMBERED_RUNS):
        received.runs.add(f"other_{number}", REPORT)
    assert "run_1" not in received.runs
    await asyncio.sleep(2_000)
    assert len(received.at_s) == 1


@in_virtual_time
async def test_a_run_that_every_poll_brings_again_is_reported_and_logged_at_growing_intervals() -> None:
    api = FakeApi(Polled(run=RUN) for _ in range(100_000))
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert runner.executor.begun == [RUN.run_id]
        runner.runs.stop_run(RUN.run_id, "the test ends it")
        await asyncio.sleep(1)
        with log_lines() as lines:
            for _ in range(300):
                # The coordinator accepts each report and forgets it.
                api.states[RUN.run_id] = wire.RunState(status="claimed")
                await asyncio.sleep(1)
    repeated = [text for text in lines if "sending its report again" in text]
    assert 3 < len(repeated) < 30
    assert len([path for path in api.delivered if path.endswith("/stopped")]) <= len(repeated) + 1
    assert runner.executor.begun == [RUN.run_id]


@in_virtual_time
async def test_an_active_run_that_is_handed_out_again_is_logged_once_and_not_failed() -> None:
    unreadable = UnreadableRun(RUN.run_id, "no session")
    api = FakeApi([Polled(run=RUN)] * 20 + [Polled(run=unreadable)] * 5)
    with log_lines() as lines:
        async with polling_runner(api) as runner:
            await asyncio.sleep(100)
            assert runner.runs.is_active(RUN.run_id)
    assert len([text for text in lines if "handed out again" in text]) == 1
    assert [path.rpartition("/")[2] for path in api.delivered] == ["started"]
