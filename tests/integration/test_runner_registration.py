"""Registering at a coordinator, being refused, and registering again."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from fsm_runner.cli.runner import EXIT_CODES
from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_FAILED
from tests.support import faults
from tests.support.home import make_home
from tests.support.logs import log_lines
from tests.support.proxy import POLL, REPORT
from tests.support.runner import FAST, open_system, running, waiter

REGISTER = "/runner/register"
HEARTBEAT = "/runner/heartbeat"
NOT_REGISTERED = faults.status(401, "Runner not registered")
PATIENT = msgspec.structs.replace(FAST, registration_conflict=FAST.register)


async def test_a_second_runner_of_one_identity_waits_and_gives_up(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    async with open_system(tmp_path) as system, system.running(home) as first:
        with log_lines() as lines:
            async with system.running(home, registers=False) as second:
                assert await second.ended() == "refused"
        assert EXIT_CODES["refused"] == EXIT_FAILED
        assert len(system.proxy.calls_for("POST", REGISTER)) > 2
        assert any("another runner of this identity" in line for line in lines)
        assert any("already online" in line for line in lines)
        assert first.actor.state == "online"
        assert len(await system.runners()) == 1
        await system.completes()


async def test_a_second_runner_of_one_identity_gets_in_when_the_first_leaves(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    async with (
        open_system(tmp_path) as system,
        system.running(home) as first,
        system.running(home, PATIENT, registers=False) as second,
    ):
        await system.proxy.seen("POST", REGISTER, 3)
        assert await first.drain() == "stopped"
        await second.goes_through("online")
        await system.completes()


async def test_an_agent_that_another_runner_has_is_waited_for_and_given_up(tmp_path: Path) -> None:
    async with open_system(tmp_path) as system, system.running(make_home(tmp_path / "home")):
        other = _renamed(make_home(tmp_path / "other home"), "other")
        with log_lines() as lines:
            async with system.running(other, registers=False) as second:
                assert await second.ended() == "refused"
        assert any("An agent named" in line and "already defined" in line for line in lines)
        await system.completes()


async def test_a_replica_takes_the_agents_over_when_the_runner_that_has_them_leaves(tmp_path: Path) -> None:
    other = _renamed(make_home(tmp_path / "other home"), "other")
    async with (
        open_system(tmp_path) as system,
        system.running(make_home(tmp_path / "home")) as first,
        system.running(other, PATIENT, registers=False) as second,
    ):
        await system.proxy.seen("POST", REGISTER, 3)
        assert await first.drain() == "stopped"
        await second.goes_through("online")
        await system.completes()


async def test_replicas_share_the_agents_that_the_coordinator_has_itself(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    agents_dir = home.agent_files["say"].parent
    async with (
        open_system(tmp_path, agents_dir=agents_dir) as system,
        system.running(home, max_runs=1, hostname="one"),
        system.running(home, max_runs=1, hostname="two"),
        waiter(tmp_path, "first") as first,
        waiter(tmp_path, "second") as second,
    ):
        runs = [await system.submit("wait", **each.parameters) for each in (first, second)]
        for each in (first, second):
            await each.started.line()
        holders = {(await system.api.run(run.run_id)).runner_id for run in runs}
        assert len(holders) == len(runs)
        for each, run in zip((first, second), runs, strict=True):
            each.gate.write_line()
            assert (await system.end(run)).status == "completed"


@pytest.mark.parametrize("code", [401, 403, 422])
async def test_a_registration_that_is_refused_says_why(tmp_path: Path, code: int) -> None:
    async with open_system(tmp_path) as system:
        system.proxy.fault("POST", REGISTER, faults.status(code, "no entry for you"), times=None)
        with log_lines() as lines:
            async with system.running(make_home(tmp_path / "home"), registers=False) as runner:
                assert await runner.ended() == "refused"
        assert any(f"HTTP {code}" in line and "no entry for you" in line for line in lines)
        assert len(system.proxy.calls) == 1


async def test_a_registration_that_is_refused_for_a_field_names_it_without_json(tmp_path: Path) -> None:
    errors = [{"type": "missing", "loc": ["body", "agents", 0, "command"], "msg": "Field required", "input": {}}]
    answer = faults.Answer(422, json.dumps({"detail": errors}).encode())
    async with open_system(tmp_path) as system:
        system.proxy.fault("POST", REGISTER, faults.instead("wrong field", answer))
        with log_lines() as lines:
            async with system.running(make_home(tmp_path / "home"), registers=False) as runner:
                assert await runner.ended() == "refused"
        assert any(": HTTP 422: agents.0.command: Field required)" in line for line in lines), lines


async def test_credentials_that_are_refused_later_do_not_end_a_registered_runner(tmp_path: Path) -> None:
    timings = Timings(heartbeat_interval_s=0.1, stale_after_s=0.0)
    async with open_system(tmp_path, timings) as system, system.running(make_home(tmp_path / "home")) as runner:
        system.proxy.fault("POST", REGISTER, faults.status(401, "Not authenticated"), times=3)
        system.proxy.fault("POST", HEARTBEAT, NOT_REGISTERED)
        await runner.goes_through("online", "registering", "online")
        await system.completes()


async def test_a_coordinator_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async with open_system(tmp_path) as system:
        for kind in (faults.reset(), faults.html(), faults.status(502), faults.broken_json()):
            system.proxy.fault("POST", REGISTER, kind, times=2)
        with log_lines() as lines:
            async with system.running(make_home(tmp_path / "home")):
                await system.completes()
        assert any("registration failed, retrying in" in line and system.proxy.url in line for line in lines)


async def test_a_registration_whose_answer_is_lost_is_repeated_until_the_first_one_counts_as_stale(
    tmp_path: Path,
) -> None:
    async with open_system(tmp_path, Timings(stale_after_s=0.2)) as system:
        system.proxy.fault("POST", REGISTER, faults.lost_answer())
        async with system.running(make_home(tmp_path / "home"), PATIENT):
            await system.completes()
            assert len(await system.runners()) == 1


async def test_a_runner_drains_while_the_coordinator_is_away(tmp_path: Path) -> None:
    async with open_system(tmp_path) as system:
        system.proxy.fault("POST", REGISTER, faults.reset(), times=None)
        async with system.running(make_home(tmp_path / "home"), registers=False) as runner:
            await system.proxy.seen("POST", REGISTER, 3)
            assert await runner.drain() == "stopped"


async def test_a_runner_that_drains_while_it_registers_leaves_no_registration(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with open_system(tmp_path) as system:
        system.proxy.fault("POST", REGISTER, faults.hold(released))
        async with system.running(make_home(tmp_path / "home"), registers=False) as runner:
            await system.proxy.carried_out("POST", REGISTER)
            runner.actor.post("drain_requested", "a signal")
            await runner.goes_through("draining")
            released.set()
            assert await runner.ended() == "stopped"
            assert await system.runners() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", POLL), ("POST", HEARTBEAT), ("POST", REPORT + "completed")],
    ids=["poll", "beat", "end"],
)
async def test_a_runner_that_is_not_known_any_more_registers_again_by_itself(
    tmp_path: Path, method: str, path: str
) -> None:
    # The coordinator holds it for stale at once, as one that has forgotten it would take it in.
    timings = Timings(heartbeat_interval_s=0.1, stale_after_s=0.0)
    async with open_system(tmp_path, timings) as system:
        system.proxy.fault(method, path, NOT_REGISTERED)
        async with system.running(make_home(tmp_path / "home")) as runner:
            run = await system.submit("say", text="unharmed")
            assert (await system.end(run)).status == "completed"
            assert await system.result(run) == {"said": "unharmed"}
            await system.proxy.answered("POST", REGISTER, 2)
            await runner.goes_through("online", "registering", "online")


async def test_a_restarted_coordinator_is_found_again_and_runs_at_work_are_unharmed(tmp_path: Path) -> None:
    database = tmp_path / "coordinator.sqlite"
    async with (
        open_system(tmp_path, database=database) as system,
        waiter(tmp_path) as command,
        system.running(make_home(tmp_path / "home")) as runner,
    ):
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.answered("POST", REPORT + "started")
        port = int(system.server.url.rsplit(":")[-1])
        await system.server.stop()
        await runner.goes_through("disconnected")
        command.gate.write_line("through the outage")
        await system.state(run, "reporting")
        async with CoordinatorServer(port=port, database=database):
            await runner.goes_through("disconnected", "registering", "online")
            assert (await system.end(run)).status == "completed"
            assert await system.result(run) == {"heard": "through the outage"}
            assert system.reports(run) == ["started", "completed"]
            await system.completes()
            assert await runner.drain() == "stopped"


async def test_a_heartbeat_is_sent_as_often_as_the_coordinator_asks(tmp_path: Path) -> None:
    async with open_system(tmp_path, Timings(heartbeat_interval_s=0.2)) as system:
        async with system.running(make_home(tmp_path / "home")):
            began = asyncio.get_running_loop().time()
            await system.proxy.answered("POST", HEARTBEAT, 5)
            assert asyncio.get_running_loop().time() - began > 0.2 * 5 * 0.9
        for beat in system.proxy.calls_for("POST", HEARTBEAT):
            assert beat.json.keys() == {"runner_id"}


async def test_a_shorter_configured_interval_of_heartbeats_is_used(tmp_path: Path) -> None:
    async with running(tmp_path, heartbeat_interval_s=0.1) as (system, _):
        await system.proxy.answered("POST", HEARTBEAT, 2)


async def test_a_heartbeat_that_fails_cuts_the_runner_off_until_one_goes_right(tmp_path: Path) -> None:
    async with open_system(tmp_path, Timings(heartbeat_interval_s=0.1)) as system:
        system.proxy.fault("POST", HEARTBEAT, faults.html(), times=2)
        async with system.running(make_home(tmp_path / "home")) as runner:
            await runner.goes_through("online", "disconnected", "online")
            await system.completes()


def _renamed(profile: LoadedProfile, name: str) -> LoadedProfile:
    """The same agents under another identity."""
    return msgspec.structs.replace(profile, name=name)
