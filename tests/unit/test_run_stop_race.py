"""A stop that arrives in the same moment as the start of the executor."""

import asyncio

import pytest

from fsm_runner.coordinator_client.api import Polled
from fsm_runner.executors.interface import Assignment
from tests.support.fake_api import FakeApi
from tests.support.polling import RUN, EndlessExecutor, polling_runner
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_stop_right_after_the_start_withdraws_the_report_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi([Polled(run=RUN)])
    async with polling_runner(api) as runner:

        async def prepare(_: EndlessExecutor, assignment: Assignment) -> None:
            # The stop is in the inbox before the actor handles the end of this activity.
            asyncio.get_running_loop().call_soon(runner.runs.stop_run, assignment.run.run_id, "requested")

        monkeypatch.setattr(EndlessExecutor, "prepare", prepare)
        await asyncio.sleep(1)
        assert runner.executor.begun == []
        assert api.delivered == [f"/runner/runs/{RUN.run_id}/stopped"]
