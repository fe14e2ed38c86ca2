"""A stop concerns one run: other runs of the same session continue."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support import faults
from tests.support.command_executor import ScriptedBench, held_by, scripted_bench, short_graces
from tests.support.proxy import POLL
from tests.support.runner import Waiter, waiter

FAILED = "/runner/runs/{}/failed"
LONG_S = 600.0


class TwoHeld(NamedTuple):
    at_work: ScriptedBench
    held: Waiter
    first: RunCreated
    second: RunCreated
    released: asyncio.Event


async def test_a_resume_that_comes_while_the_runner_drains_leaves_the_turn_its_grace_period(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path, grace_period_s=LONG_S) as at_work, waiter(tmp_path) as held:
        first = await at_work.start(["bind"], *held_by(held), ["report"])
        await held.started.pid()
        await at_work.proxy.seen("GET", POLL, 2)
        at_work.runner.actor.post("drain_requested", "the test")
        await at_work.runner.goes_through("draining")
        late = await at_work.resume(first)
        assert (await at_work.end(late)).status in ("failed", "stopped")
        assert at_work.system.states[first.run_id][-1] == "executing"
        held.gate.write_line()
        assert await at_work.runner.ended() == "stopped"
        await at_work.completes(first)


@asynccontextmanager
async def two_held(folder: Path) -> AsyncIterator[TwoHeld]:
    """A turn at work, and a resume that was refused as busy and is not reported yet."""
    released = asyncio.Event()
    async with scripted_bench(folder) as at_work, waiter(folder) as held:
        first = await at_work.start(["bind"], *held_by(held), ["report"])
        await held.started.pid()
        at_work.proxy.fault("POST", FAILED.format(".*"), faults.hold_request(released))
        second = await at_work.resume(first)
        await at_work.proxy.seen("POST", FAILED.format(second.run_id))
        yield TwoHeld(at_work, held, first, second, released)


async def test_a_stop_of_a_run_that_was_refused_as_busy_leaves_the_turn_at_work(tmp_path: Path) -> None:
    async with two_held(tmp_path) as (at_work, held, first, second, released):
        await at_work.system.api.stop_run(second.run_id)
        await at_work.proxy.answered("GET", "/runs", 1)
        released.set()
        await at_work.end(second)
        assert at_work.system.states[first.run_id][-1] == "executing"
        held.gate.write_line()
        await at_work.completes(first)


async def test_a_stop_of_the_turn_at_work_reaches_it_though_another_run_of_its_session_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with two_held(tmp_path) as (at_work, _, first, second, released):
        await at_work.system.api.stop_run(first.run_id)
        await at_work.system.state(first, "stopping")
        released.set()
        assert (await at_work.end(first)).status == "stopped"
        assert (await at_work.end(second)).status == "failed"
