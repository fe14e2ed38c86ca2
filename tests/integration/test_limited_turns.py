"""Runs whose executor reports a limit of its provider, in each way in which a turn can end at one."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.config.provider_limits import CONTINUE_PROMPT, ProviderLimitPolicy
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.protocol.wire import RunCreated
from tests.support.command_executor import AGENT, ScriptedBench, scripted_bench
from tests.support.provider import Limits, limited_home, provider
from tests.support.watch import PATIENCE_S

SOON_S = 0.3


async def session_of(bench: ScriptedBench, run: RunCreated) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=bench.system.server.url, trust_env=False, timeout=PATIENCE_S) as http:
        session: dict[str, Any] = (await http.get(f"/sessions/{run.session_id}")).json()["session"]
        return session


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("ends", ["limited", "exits", "exits_idle"])
async def test_the_session_continues_however_its_turn_ended(tmp_path: Path, lifecycle: Lifecycle, ends: Any) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=SOON_S, ends=ends))
        home = limited_home(tmp_path / "home", api, lifecycle=lifecycle, revive=lifecycle == "persistent")
        async with scripted_bench(tmp_path, home) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            ended = await bench.end(run)
            assert (ended.status, ended.error) == ("completed", None)
            first, second = api.asked
            assert (first.mode, first.prompt, second.prompt) == ("start", "hello", CONTINUE_PROMPT)
            lives_on = (lifecycle, ends) == ("persistent", "limited")
            assert (second.pid == first.pid, second.turn, second.mode) == (
                (True, 2, "start") if lives_on else (False, 1, "resume")
            )


async def test_a_session_without_a_process_does_not_continue_unless_it_may_be_revived(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=3_600, ends="exits"))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            error = await bench.fails(await bench.system.submit(AGENT, prompt="hello"))
            assert error.startswith("Error: API Error: 429 You've hit your limit")
            assert "revive" in error


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_run_whose_session_was_not_bound_begins_again(tmp_path: Path, lifecycle: Lifecycle) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=SOON_S, ends="exits"))
        home = limited_home(tmp_path / "home", api, lifecycle=lifecycle, binds_late=True)
        async with scripted_bench(tmp_path, home) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            assert (await bench.end(run)).status == "completed"
            assert [(asked.mode, asked.prompt) for asked in api.asked] == [("start", "hello")] * 2


async def test_a_client_sees_the_limit_while_the_run_waits(tmp_path: Path) -> None:
    async with provider() as api:
        api.will(Limits(kind="weekly", resets_in_s=SOON_S, scope="session", message="Wait"))
        async with scripted_bench(tmp_path, limited_home(tmp_path / "home", api)) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            assert (await bench.end(run)).status == "completed"
            reported = [call.json for call in bench.proxy.acknowledged("PATCH", f"/sessions/{run.session_id}/metadata")]
            set_, cleared = (each["limit"] for each in reported)
            resets_at = set_.pop("resets_at")
            assert resets_at.endswith("Z")
            assert set_ == {"kind": "weekly", "scope": "session", "message": "Wait"}
            assert cleared is None
            assert "limit" not in await session_of(bench, run)


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_run_that_does_not_wait_fails_and_its_session_names_the_reset(
    tmp_path: Path, lifecycle: Lifecycle
) -> None:
    async with provider() as api:
        api.will(Limits(resets_in_s=3_600))
        policy = ProviderLimitPolicy(max_waits=0)
        home = limited_home(tmp_path / "home", api, lifecycle=lifecycle, provider_limits=policy)
        async with scripted_bench(tmp_path, home) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            error = await bench.fails(run)
            limit = (await session_of(bench, run))["limit"]
            assert limit["resets_at"][:19].replace("T", " ") in error, error


@pytest.mark.parametrize("resets_at", ["soon", 5, "9999-12-31T23:59:59-23:00", None])
async def test_an_unreadable_reset_is_one_that_is_unknown(tmp_path: Path, resets_at: Any) -> None:
    async with provider() as api:
        api.will(Limits(ends="exits", raw={"kind": "five_hour", "resets_at": resets_at}))
        home = limited_home(tmp_path / "home", api, lifecycle="one_shot")
        async with scripted_bench(tmp_path, home) as bench:
            run = await bench.system.submit(AGENT, prompt="hello")
            await bench.system.state(run, "waiting_for_limit")
            call = await bench.proxy.answered("PATCH", f"/sessions/{run.session_id}/metadata")
            assert call.json["limit"] == {"kind": "five_hour", "resets_at": None, "scope": "credential", "message": ""}
