"""A run whose actor has a defect."""

import asyncio

import pytest

from fsm_runner.coordinator_client.api import Polled
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.run import RunActor
from tests.support.fake_api import FakeApi
from tests.support.polling import RUN, polling_runner
from tests.support.virtual_time import in_virtual_time

OTHER = wire.Run(run_id="run_2", session_id="ses_2")


@in_virtual_time
async def test_it_is_reported_as_failed_and_the_others_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    live = RunActor.live

    async def live_or_break(actor: RunActor) -> str:
        if actor.name == RUN.run_id:
            raise ZeroDivisionError("a defect")
        return await live(actor)

    monkeypatch.setattr(RunActor, "live", live_or_break)
    api = FakeApi([Polled(run=RUN), Polled(run=OTHER)])
    async with polling_runner(api) as runner:
        await asyncio.sleep(1)
        assert runner.executor.begun == [OTHER.run_id]
        assert not runner.runs.is_active(RUN.run_id)
        assert api.delivered[0] == f"/runner/runs/{RUN.run_id}/failed"
        assert "ZeroDivisionError" in ((await api.run_state(RUN.run_id)).error or "")
