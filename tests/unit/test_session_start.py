"""The start of a session that an earlier process of the runner had."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.runtime.actors import session
from fsm_runner.runtime.actors.actor import Position
from fsm_runner.runtime.actors.session import Turn
from fsm_runner.runtime.actors.session_registry import PersistentExecutor
from tests.support.fake_api import ME, FakeApi
from tests.support.polling import PROJECT_DIR, RUN, polling_runner
from tests.support.virtual_time import in_virtual_time


class EndlessProcess:
    def __init__(self, *_: object) -> None: ...

    async def take_turn(self, line: bytes) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None: ...


@in_virtual_time
async def test_two_runs_that_start_it_at_once_share_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PersistentProcess", EndlessProcess)
    launcher: Any = SimpleNamespace(executor_config={})
    channel: Any = SimpleNamespace(observer=None, run=RUN)
    first = Assignment(RUN, PROJECT_DIR, ME)
    async with polling_runner(FakeApi()) as runner:
        runner.record.record_session_start(RUN.session_id, ME, b"")
        runner.sessions.resume(first, Position("idle", None), [asyncio.Event()])
        await asyncio.sleep(1)
        executor = PersistentExecutor(runner.sessions, launcher)
        starts = [executor.start(first, channel) for _ in range(2)]
        one, other = await asyncio.gather(*starts, return_exceptions=True)
        assert isinstance(one, Turn)
        assert isinstance(other, ExecutionFailed)
        assert len(runner.sessions) == 1
