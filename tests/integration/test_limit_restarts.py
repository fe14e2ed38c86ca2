"""Runs that wait for a limit of their provider while their runner drains, is killed or is asked about them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.app.health import SOCKET_FILE, query_all
from fsm_runner.app.local_socket import sockets
from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.config.provider_limits import CONTINUE_PROMPT
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_OK
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.control import provider_limits
from tests.support.command_executor import AGENT, PROFILE
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.program import environment, finish, program
from tests.support.provider import Held, Limits, Provider, Says, limited_home, provider
from tests.support.runner import System, open_system

TIMINGS = Timings(stale_after_s=0.2)
"""The coordinator soon accepts the successor of a runner that has not deregistered."""
GRACE_S = 60.0
SOON_S = 1.5
"""Longer than the end of a runner takes."""
FAR_S = 3_600.0


async def is_waiting(system: System, run: RunCreated, count: int = 1) -> None:
    """Return when the coordinator knows that the run waits."""

    def waits() -> int:
        calls = system.proxy.acknowledged("PATCH", f"/sessions/{run.session_id}/metadata")
        return sum(call.json.get("limit") is not None for call in calls)

    await system.proxy.wait_for(lambda: waits() >= count, f"wait {count} of {run.run_id}")


async def completes(system: System, run: RunCreated) -> None:
    ended = await system.end(run)
    assert (ended.status, ended.error) == ("completed", None)


def home_of(folder: Path, api: Provider, lifecycle: Lifecycle) -> LoadedProfile:
    return limited_home(folder / "home", api, lifecycle=lifecycle, revive=lifecycle == "persistent")


def kept(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return settings of a runner that keeps its journal."""
    return {"state_dir": folder / "state", "grace_period_s": GRACE_S, **settings}


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_runner_that_drains_leaves_a_waiting_run_to_its_next_process(
    tmp_path: Path, lifecycle: Lifecycle
) -> None:
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=SOON_S))
        home, settings = home_of(tmp_path, api, lifecycle), kept(tmp_path)
        async with system.running(home, **settings) as first:
            run = await system.submit(AGENT, prompt="hello")
            await is_waiting(system, run)
            with log_lines("WARNING") as lines:
                assert await first.drain() == "stopped"
            assert "not deregistered, because this is left to the runner's next process: 1 waiting run" in lines
            assert system.states[run.run_id][-1] == "waiting_for_limit"
        await gone(api.asked[0].pid)
        assert system.proxy.calls_for("DELETE", ".*") == []
        async with system.running(home, **settings) as second:
            await completes(system, run)
            assert second.path[:4] == ["recovering", "registering", "limited", "testing_limit"]
        assert system.reports(run) == ["started", "completed"]
        assert [(asked.mode, asked.prompt) for asked in api.asked] == [("start", "hello"), ("resume", CONTINUE_PROMPT)]


async def test_a_runner_that_ends_its_last_busy_run_leaves_those_that_wait(tmp_path: Path) -> None:
    never = asyncio.Event()
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=2 * SOON_S, scope="session"), Held(never, Says()))
        home, settings = home_of(tmp_path, api, "one_shot"), kept(tmp_path, grace_period_s=0.1)
        async with system.running(home, **settings) as first:
            waiting = await system.submit(AGENT, prompt="hello")
            await is_waiting(system, waiting)
            busy = await system.submit(AGENT, prompt="hello")
            await api.was_asked(2)
            assert await first.drain() == "stopped"
            assert (await system.end(busy)).status == "stopped"
            never.set()
        async with system.running(home, **settings):
            await completes(system, waiting)
        assert system.reports(waiting) == ["started", "completed"]


async def test_a_persistent_run_that_cannot_be_revived_fails_after_the_restart(tmp_path: Path) -> None:
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=SOON_S))
        home, settings = limited_home(tmp_path / "home", api), kept(tmp_path)
        async with system.running(home, **settings) as first:
            run = await system.submit(AGENT, prompt="hello")
            await is_waiting(system, run)
            assert await first.drain() == "stopped"
        # Nothing tests the limit after the reset, so the runner is not online.
        async with system.running(home, registers=False, **settings):
            ended = await system.end(run)
            assert ended.status == "failed"
            assert "revive" in (ended.error or "")
            assert len(api.asked) == 1


async def test_a_stop_while_the_runner_is_away_ends_the_waiting_run(tmp_path: Path) -> None:
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=FAR_S))
        home, settings = home_of(tmp_path, api, "one_shot"), kept(tmp_path)
        async with system.running(home, **settings) as first:
            run = await system.submit(AGENT, prompt="hello")
            await is_waiting(system, run)
            assert await first.drain() == "stopped"
        await system.api.stop_run(run.run_id)
        async with system.running(home, registers=False, **settings) as second:
            assert (await system.end(run)).status == "stopped"
            await second.goes_through("limited")
            assert len(api.asked) == 1


async def test_a_wait_that_has_ended_while_the_runner_was_away_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_limits, "JITTER_CAP_S", 0.5)
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=SOON_S, scope="session"))
        home = home_of(tmp_path, api, "one_shot")
        settings = kept(tmp_path, limit_wait_s=SOON_S)
        async with system.running(home, **settings) as first:
            run = await system.submit(AGENT, prompt="hello")
            await is_waiting(system, run)
            assert await first.drain() == "stopped"
        await asyncio.sleep(SOON_S + 0.5)
        async with system.running(home, **settings):
            await completes(system, run)


async def test_the_time_of_the_next_attempt_is_not_reported_once_it_has_passed(tmp_path: Path) -> None:
    passes = asyncio.Event()
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=0.3), Held(passes, Says()))
        async with system.running(home_of(tmp_path, api, "one_shot"), **kept(tmp_path)):
            run = await system.submit(AGENT, prompt="hello")
            await api.was_asked(2)
            (answer,) = (await query_all(sockets(tmp_path / "state", SOCKET_FILE))).values()
            passes.set()
            await completes(system, run)
            assert str(answer) == "testing limit, 1 run held"


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_killed_runner_is_healthy_before_and_its_successor_continues_the_waiting_run(
    tmp_path: Path, lifecycle: Lifecycle
) -> None:
    async with provider() as api, open_system(tmp_path, TIMINGS) as system:
        api.will(Limits(resets_in_s=4))
        env, state = environment(home_of(tmp_path, api, lifecycle).home), ("--state-dir", str(tmp_path / "state"))
        arguments = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, *state)
        async with program(tmp_path, env, *arguments) as runner:
            await runner.said("online")
            run = await system.submit(AGENT, prompt="hello")
            await is_waiting(system, run)
            health = await finish(tmp_path, env, "health", *state)
            assert health.code == EXIT_OK
            assert ": limited, 1 run held, 1 of them waiting, next attempt at 20" in health.stdout
            runner.process.kill()
        async with program(tmp_path, env, *arguments) as runner:
            await is_waiting(system, run, 2)
            await runner.said(f"{run.run_id}: completed")
            assert [asked.mode for asked in api.asked] == ["start", "resume"]
            assert system.reports(run) == ["started", "completed"]
            history = await finish(tmp_path, env, "history", run.run_id, *state)
            assert history.code == EXIT_OK
            assert history.stdout.count("waiting_for_limit") >= 2, history.stdout
            assert "the limit five_hour is reached; it resets at" in history.stdout
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
