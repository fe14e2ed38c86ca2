"""Runs wait for limits of their provider: which of them wait, for how long, and which one goes first afterwards."""

import asyncio
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.config.provider_limits import CONTINUE_PROMPT, ProviderLimitPolicy
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control import descriptors, provider_limits
from fsm_runner.util import wall_clock as clock_module
from tests.support.command_executor import AGENT, ScriptedBench, scripted_bench
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.provider import Held, Limits, Says, limited_home, provider

SOON_S = 0.3
FAR_S = 3_600.0
HOUR_S = 3_600.0
YEAR_S = 365 * 86_400.0
SHORT_WAIT_S = 0.1
"""Replaces the wait for a reset of unknown time."""
QUIET_S = 0.2
"""The time in which nothing happens if nothing may."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_limits, "UNKNOWN_RESET_BASE_S", SHORT_WAIT_S)


def metadata_limits(bench: ScriptedBench, run: RunCreated) -> list[dict[str, Any] | None]:
    """Return the values of the session's field `limit`, in order."""
    calls = bench.proxy.acknowledged("PATCH", f"/sessions/{run.session_id}/metadata")
    return [call.json["limit"] for call in calls if "limit" in call.json]


async def reset_of(bench: ScriptedBench, run: RunCreated, count: int = 1) -> float:
    """Wait until the run waits for the `count`th time. Return when its limit resets, in Unix seconds."""

    def resets() -> list[str]:
        return [limit["resets_at"] for limit in metadata_limits(bench, run) if limit is not None]

    await bench.proxy.wait_for(lambda: len(resets()) >= count, f"wait {count} of {run.run_id}")
    return datetime.fromisoformat(resets()[count - 1]).timestamp()


async def submit(bench: ScriptedBench, prompt: str = "hello") -> RunCreated:
    return await bench.system.submit(AGENT, prompt=prompt)


async def completes(bench: ScriptedBench, run: RunCreated) -> None:
    ended = await bench.end(run)
    assert (ended.status, ended.error) == ("completed", None)


async def test_ten_runs_on_one_credential_send_one_request_for_each_reset(tmp_path: Path) -> None:
    still_limited, passes = asyncio.Event(), asyncio.Event()
    async with provider() as api:
        api.will(Limits(resets_in_s=1), Held(still_limited, Limits(resets_in_s=0.5)), Held(passes, Says()))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, lifecycle="one_shot")) as bench:
            first = await submit(bench)
            resets_at_s = await reset_of(bench, first)
            runs = [first, *[await submit(bench) for _ in range(9)]]
            await api.was_asked(2)
            assert time.time() >= resets_at_s
            await asyncio.sleep(QUIET_S)
            assert len(api.asked) == 2
            still_limited.set()
            await bench.runner.goes_through("limited", "testing_limit", "limited", "testing_limit")
            await api.was_asked(3)
            await asyncio.sleep(QUIET_S)
            assert len(api.asked) == 3
            passes.set()
            for run in runs:
                await completes(bench, run)
            assert len(api.asked) == 2 + len(runs)
            assert bench.runner.path.count("limited") == 2


async def test_a_waiting_run_holds_no_slot_and_continues_before_a_new_one_is_claimed(tmp_path: Path) -> None:
    others = asyncio.Event()
    async with provider() as api:
        api.will(Limits(resets_in_s=1, scope="session"), Says(), Held(others, Says()))
        home = limited_home(tmp_path / "home", api, lifecycle="one_shot")
        async with scripted_bench(tmp_path, home, max_runs=1) as bench:
            waiting = await submit(bench)
            resets_at_s = await reset_of(bench, waiting)
            await completes(bench, await submit(bench))
            assert time.time() < resets_at_s
            busy, *queued = [await submit(bench) for _ in range(3)]
            await api.was_asked(3)
            await asyncio.sleep(resets_at_s + QUIET_S - time.time())
            assert len(api.asked) == 3
            others.set()
            for run in (busy, waiting, *queued):
                await completes(bench, run)
            assert [asked.session_id for asked in api.asked[2:4]] == [busy.session_id, waiting.session_id]


async def test_a_run_may_wait_for_a_slot_for_longer_than_for_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_limits, "JITTER_CAP_S", 0.1)
    others = asyncio.Event()
    async with provider() as api:
        api.will(Limits(resets_in_s=SOON_S, scope="session"), Held(others, Says()))
        home = limited_home(tmp_path / "home", api, lifecycle="one_shot")
        async with scripted_bench(tmp_path, home, max_runs=1, limit_wait_s=2 * SOON_S) as bench:
            waiting = await submit(bench)
            await reset_of(bench, waiting)
            busy = await submit(bench)
            await reset_of(bench, waiting, 2)
            others.set()
            await completes(bench, busy)
            await completes(bench, waiting)


async def test_a_run_continues_when_there_are_file_descriptors_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "FREED_AFTER_S", 0.0)
    monkeypatch.setattr(descriptors, "CHECK_INTERVAL_S", 0.05)
    async with provider() as api:
        api.will(Limits(resets_in_s=SOON_S))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, lifecycle="one_shot")) as bench:
            run = await submit(bench)
            resets_at_s = await reset_of(bench, run)
            with monkeypatch.context() as shortage:
                shortage.setattr(descriptors.DescriptorWatch, "has_room", False)
                await asyncio.sleep(resets_at_s + QUIET_S - time.time())
                assert len(api.asked) == 1
            await completes(bench, run)


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_stop_ends_a_waiting_run_and_its_executor_at_once(tmp_path: Path, lifecycle: Lifecycle) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=FAR_S))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, lifecycle=lifecycle)) as bench:
            run = await submit(bench)
            await reset_of(bench, run)
            await bench.system.api.stop_run(run.run_id)
            assert (await bench.end(run)).status == "stopped"
            await gone(api.asked[0].pid)
            assert await bench.session(run) == "stopped"
            assert bench.system.reports(run) == ["started", "stopped"]
            assert metadata_limits(bench, run)[-1] is None


async def test_a_stop_of_the_session_ends_its_waiting_run(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=FAR_S))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            await reset_of(bench, run)
            await bench.stop_session(run)
            assert (await bench.end(run)).status == "stopped"
            await gone(api.asked[0].pid)
            assert await bench.session(run) == "stopped"


async def test_a_runner_that_does_not_wait_fails_the_run_and_claims_none_before_the_reset(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=1))
        home = limited_home(tmp_path / "home", api, lifecycle="one_shot")
        async with scripted_bench(tmp_path, home, limit_wait_s=0.0) as bench:
            run = await submit(bench)
            assert "(--limit-wait 0, LIMIT_WAIT=0)" in await bench.fails(run)
            resets_at_s = await reset_of(bench, run)
            await bench.runner.goes_through("limited")
            # The poll that the runner held may still deliver a run, which then fails.
            last = await submit(bench)
            if (await bench.end(last)).status == "failed":
                last = await submit(bench)
            await completes(bench, last)
            assert time.time() > resets_at_s
            assert len(api.asked) == 2


async def test_a_reset_in_a_year_is_not_awaited(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=YEAR_S))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            error = await bench.fails(run)
            resets_at = datetime.fromtimestamp(await reset_of(bench, run)).astimezone()
            assert f"it resets at {resets_at.year}-" in error
            assert "the runner waits 21600 s at most (--limit-wait, LIMIT_WAIT)" in error
            await bench.runner.goes_through("limited")


@pytest.mark.parametrize("resets_in_s", [-1.0, -YEAR_S, None])
async def test_a_reset_that_is_past_or_unknown_is_tried_soon(tmp_path: Path, resets_in_s: float | None) -> None:
    async with provider() as api:
        api.will(*[Limits(resets_in_s=resets_in_s)] * 3)
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            await completes(bench, run)
            assert len(api.asked) == 4
            assert bench.system.states[run.run_id].count("waiting_for_limit") == 3
            assert bench.system.reports(run) == ["started", "completed"]


async def test_a_run_that_has_waited_too_often_fails(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(*[Limits(resets_in_s=SHORT_WAIT_S)] * 3)
        policy = ProviderLimitPolicy(max_waits=2)
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, provider_limits=policy)) as bench:
            run = await submit(bench)
            assert "a run waits 2 times at most (max_waits)" in await bench.fails(run)
            assert len(api.asked) == 3
            assert await bench.session(run) == "failed"
            limit = metadata_limits(bench, run)[-1]
            assert limit is not None
            assert limit["resets_at"] is not None


async def test_the_session_continues_with_the_prompt_of_the_profile(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=SHORT_WAIT_S))
        policy = ProviderLimitPolicy(prompt="Go on.")
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, provider_limits=policy)) as bench:
            await completes(bench, await submit(bench))
            assert [asked.prompt for asked in api.asked] == ["hello", "Go on."]


class WallClock:
    """The runner's wall clock, which may differ from that of the provider."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_s(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    defaults = RunRegistry.__init__.__kwdefaults__ or {}
    assert defaults["wall_clock_s"] is time.time
    monkeypatch.setitem(defaults, "wall_clock_s", clock.now_s)
    return clock


async def test_a_clock_ahead_of_the_providers_costs_a_few_attempts(tmp_path: Path, wall_clock: WallClock) -> None:
    wall_clock.ahead_s = HOUR_S
    async with provider() as api:
        api.otherwise = Limits(resets_in_s=0.5)
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            await api.was_asked(1)
            await asyncio.sleep(0.5)
            api.otherwise = Says()
            await completes(bench, run)
            # The waits are 0.1 s, 0.2 s, 0.4 s, …
            assert len(api.asked) <= 5


async def test_a_clock_behind_the_providers_is_followed_when_it_is_corrected(
    tmp_path: Path, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "CHECK_INTERVAL_S", 0.05)
    wall_clock.ahead_s = -HOUR_S
    async with provider() as api:
        api.will(Limits(resets_in_s=SHORT_WAIT_S))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            await reset_of(bench, run)
            await asyncio.sleep(QUIET_S)
            assert len(api.asked) == 1
            wall_clock.ahead_s = HOUR_S / 4
            await completes(bench, run)


async def test_the_time_limit_of_a_run_is_paused_while_it_waits(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=2))
        home = limited_home(tmp_path / "home", api, lifecycle="one_shot")
        async with scripted_bench(tmp_path, home, run_timeout_s=1.9) as bench:
            await completes(bench, await submit(bench))


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_all_executions_count_towards_the_time_limit(tmp_path: Path, lifecycle: Lifecycle) -> None:
    first, never = asyncio.Event(), asyncio.Event()
    async with provider() as api:
        api.will(Held(first, Limits()), Held(never, Says()))
        home = limited_home(tmp_path / "home", api, lifecycle=lifecycle)
        async with scripted_bench(tmp_path, home, run_timeout_s=2.0) as bench:
            run = await submit(bench)
            await api.was_asked(1)
            await asyncio.sleep(1)
            first.set()
            await api.was_asked(2)
            began_s = time.monotonic()
            await bench.system.state(run, "stopping")
            assert time.monotonic() - began_s < 1.5
            never.set()
            assert "(run timeout)" in await bench.fails(run)


async def test_usage_is_summed_over_the_executions(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(
            Limits(usage=({"input_tokens": 3}, {"input_tokens": 5})), Says(usage=({"input_tokens": 7, "turns": 1},))
        )
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            with log_lines("INFO") as lines:
                run = await submit(bench)
                await completes(bench, run)
            (last,) = [line for line in lines if line.startswith(f"{run.run_id}: completed")]
            assert "12 tokens in" in last
            assert "1 turn" in last


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_further_run_of_a_waiting_session_fails_as_busy(tmp_path: Path, lifecycle: Lifecycle) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=SOON_S, scope="session"))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api, lifecycle=lifecycle)) as bench:
            waiting = await submit(bench)
            await reset_of(bench, waiting)
            error = await bench.fails(await bench.resume(waiting))
            assert error.startswith(f"session {waiting.session_id} is busy: its run {waiting.run_id} waits for a limit")
            assert await bench.system.api.session_status(waiting.session_id) == "running"
            await completes(bench, waiting)
            assert [asked.prompt for asked in api.asked] == ["hello", CONTINUE_PROMPT]


async def test_a_run_whose_executor_ends_during_the_wait_fails_without_revive(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=FAR_S, ends="exits_idle"))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            error = await bench.fails(run)
            assert "five_hour" in error
            assert f"the executor of session {run.session_id} ended between two turns of its run" in error
            assert "revive" in error


async def test_a_waiting_run_that_the_coordinator_has_ended_is_neither_continued_nor_reported(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=1))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await submit(bench)
            await reset_of(bench, run)
            async with httpx.AsyncClient(base_url=bench.system.server.url, trust_env=False) as http:
                (runner,) = (await http.get("/runners")).json()["runners"]
                ending = {"runner_id": runner["runner_id"], "error": "ended by an operator"}
                assert (await http.post(f"/runner/runs/{run.run_id}/failed", json=ending)).is_success
            with log_lines("WARNING") as lines:
                ended = await bench.end(run)
            assert (ended.status, ended.error) == ("failed", "ended by an operator")
            assert bench.system.states[run.run_id][-2:] == ["waiting_for_limit", "superseded"]
            assert len(api.asked) == 1
            await gone(api.asked[0].pid)
            assert bench.system.reports(run) == ["started"]
            assert any("the coordinator has it as failed already" in line for line in lines)
            await completes(bench, await submit(bench, "the next one"))
