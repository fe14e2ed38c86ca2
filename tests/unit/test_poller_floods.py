"""Lists of runs that are long, or long in coming, take nothing from the rest."""

import asyncio
import itertools

import msgspec
import pytest

from fsm_runner.coordinator_client.api import ClientRequests, UnreadableRun
from fsm_runner.coordinator_client.errors import NoConnection, Unreachable
from fsm_runner.coordinator_client.policy import RUN_LOOKUP_INTERVAL_S
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors import run_registry
from tests.support.fake_api import ME, FakeApi
from tests.support.polling import TIMES, polling_runner
from tests.support.virtual_time import in_virtual_time


@pytest.mark.parametrize("asked_for", ["running", "claimed", "stopping"])
@in_virtual_time
async def test_a_list_of_any_length_starts_no_more_runs_than_can_be_reported(
    asked_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_registry, "HELD_LIMIT", 5)
    api = FakeApi()
    answers: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(5)]
    api.answers = answers.copy()
    listed = [wire.Run(run_id=f"run_{number}", session_id=f"ses_{number}") for number in range(12)]

    async def held(runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
        reported = {path.split("/")[-2] for path in api.delivered if not path.endswith("started")}
        return [run for run in listed if run.run_id not in reported] if status == asked_for else []

    async def client_requests() -> ClientRequests:
        left = await held(ME, "stopping")
        return ClientRequests(stops=[wire.StopRequest(run_id=run.run_id, session_id="s", runner_id=ME) for run in left])

    api.held = held  # type: ignore[method-assign] # the answer depends on the delivered reports
    api.client_requests = client_requests  # type: ignore[method-assign]
    async with polling_runner(api) as runner:
        await asyncio.sleep(5)
        assert len(runner.runs) == 5
        for answer in answers:
            answer.set_result(None)
        if asked_for != "claimed":
            await asyncio.sleep(60)
            assert len(runner.runs) == 0
            assert len(set(api.delivered)) == len(listed)


@pytest.mark.parametrize("answers", [True, False])
@in_virtual_time
async def test_polls_have_their_turn_however_long_a_look_up_takes(answers: bool) -> None:
    api = FakeApi(itertools.repeat(NoConnection("refused"), 20))

    async def held(runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
        api.calls.append("look up")
        await asyncio.sleep(3 * RUN_LOOKUP_INTERVAL_S)
        if not answers:
            raise Unreachable("timeout")
        return []

    api.held = held  # type: ignore[method-assign] # the answer takes its time
    async with polling_runner(api, times=msgspec.structs.replace(TIMES, poll_timeout_s=100)):
        await asyncio.sleep(60)
    looked_up = [len(list(calls)) for call, calls in itertools.groupby(api.calls) if call == "look up"]
    assert len(looked_up) > 5
    assert max(looked_up) == (3 if answers else 1)  # what is running, claimed, and to be stopped
