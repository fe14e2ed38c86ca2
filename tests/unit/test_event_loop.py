"""The clock of the commands' event loop excludes the time during which the process was stopped."""

import asyncio
import socket
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from fsm_runner.util import event_loop

LIMIT_S = 0.1
STOPPED_S = 0.3


@pytest.fixture(autouse=True)
def _short_stops_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "STOP_THRESHOLD_S", 0.1)


async def _received_within_the_limit() -> bytes | None:
    """Return the data that arrives during a stop longer than the limit; None if the time-out came first."""
    here, there = socket.socketpair()
    here.setblocking(False)

    def stop() -> None:
        time.sleep(STOPPED_S)
        there.send(b"answer")

    with here, there:
        loop = asyncio.get_running_loop()
        loop.call_soon(stop)
        try:
            async with asyncio.timeout(LIMIT_S):
                return await loop.sock_recv(here, 100)
        except TimeoutError:
            return None


def test_data_that_arrived_during_a_stop_is_read_before_a_time_out() -> None:
    assert event_loop.run(_received_within_the_limit()) == b"answer"


def test_the_loop_of_asyncio_loses_that_data() -> None:
    with asyncio.Runner() as runner:
        assert runner.run(_received_within_the_limit()) is None


def test_a_time_out_still_applies_after_a_stop() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, STOPPED_S)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                await asyncio.Event().wait()
        return time.monotonic() - began_s

    # Not at once, and not much later: the time-out continues after the stop.
    assert STOPPED_S + 0.9 * LIMIT_S <= event_loop.run(main()) < 60


def test_the_clock_excludes_a_stop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, STOPPED_S)
        await asyncio.sleep(0.001)
        assert time.monotonic() - loop.time() >= STOPPED_S

    event_loop.run(main())


def test_run_returns_values_and_raises_errors() -> None:
    async def fails() -> None:
        raise ValueError("as it was")

    def run(work: Coroutine[Any, Any, object]) -> object:
        return event_loop.run(work)

    assert run(asyncio.sleep(0, 7)) == 7
    with pytest.raises(ValueError, match="as it was"):
        run(fails())
