"""A coordinator that is away, forgets the runner, answers late, or is replaced by another server."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.app import build
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_ABORTED
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.retry import RetryPolicy
from tests.support import faults
from tests.support.faults import Answer
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import environment, program
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT, FaultProxy
from tests.support.runner import FAST, RunningRunner, System, open_system, running, waiter
from tests.support.scripts import script_bench
from tests.support.watch import PATIENCE_S

REGISTER = "/runner/register"
HEARTBEAT = "/runner/heartbeat"
DOWNLOAD = "/scripts/[^/]+/download"
NOT_REGISTERED_ANSWER = Answer(401, b'{"detail": "Runner not registered"}')
NOT_REGISTERED = faults.instead("not registered", NOT_REGISTERED_ANSWER)
PAGE_NOT_FOUND = faults.instead("page", Answer(404, b"404 page not found\n", "text/plain; charset=utf-8"))

QUICK_BEATS = Timings(heartbeat_interval_s=0.1, poll_timeout_s=600)
GRACE_S = 0.05
STOP_LIMIT_S = 0.2
MARGIN_S = 60.0
REPETITIONS = 10
"""The number of repetitions of a test for a race that once made the runner hang."""
LEAVES_SOON = msgspec.structs.replace(FAST, deregister=RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=0.1))


def cut_off(proxy: FaultProxy) -> None:
    """Every call from now on is reset."""
    for method in ("GET", "POST", "DELETE"):
        proxy.fault(method, ".*", faults.reset(), times=None)


@asynccontextmanager
async def beating(folder: Path, **overrides: Any) -> AsyncIterator[tuple[System, RunningRunner]]:
    """A runner whose heartbeats come soon, before a coordinator that holds polls for long."""
    async with (
        open_system(folder, QUICK_BEATS) as system,
        system.running(make_home(folder / "home"), **overrides) as runner,
    ):
        yield system, runner


@pytest.mark.parametrize("reported", ["at work", "ended"])
async def test_a_full_runner_ends_in_time_while_the_coordinator_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: str
) -> None:
    monkeypatch.setattr(build, "STOP_LIMIT_S", STOP_LIMIT_S)
    for repetition in range(REPETITIONS):
        folder = tmp_path / str(repetition)
        folder.mkdir()
        async with (
            open_system(folder) as system,
            waiter(folder) as command,
            system.running(make_home(folder / "home"), LEAVES_SOON, max_runs=1, grace_period_s=GRACE_S) as runner,
        ):
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            cut_off(system.proxy)
            if reported == "ended":
                command.gate.write_line()
                await system.state(run, "reporting")
            async with asyncio.timeout(GRACE_S + STOP_LIMIT_S + MARGIN_S):
                assert await runner.drain() == "stopped"
            assert system.reports(run) in ([], ["started"])


async def test_a_third_signal_ends_a_full_runner_at_once_while_the_coordinator_is_away(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with open_system(tmp_path) as system, waiter(tmp_path) as command:
        arguments = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--max-runs", "1")
        async with program(tmp_path, environment(tmp_path / "home"), *arguments) as runner:
            await system.proxy.answered("POST", REGISTER)
            await system.submit("ignore-sigterm", **command.parameters)
            pid = await command.started.pid()
            cut_off(system.proxy)
            for state in ("→ draining", "→ stopping_runs"):
                runner.terminate()
                await runner.said(state)
            runner.process.send_signal(signal.SIGINT)
            assert await runner.exit_code() == EXIT_ABORTED
            await gone(pid)
            assert not [line for line in runner.lines if "Traceback" in line]


async def test_a_run_that_a_held_poll_brings_while_the_runner_registers_again_is_carried_out(tmp_path: Path) -> None:
    poll_released, register_released = asyncio.Event(), asyncio.Event()
    async with open_system(tmp_path, QUICK_BEATS) as system:
        system.proxy.fault("GET", POLL, faults.hold(poll_released))
        async with system.running(make_home(tmp_path / "home")) as runner:
            run = await system.submit("say", text="unharmed")
            await system.proxy.carried_out("GET", POLL)
            system.proxy.fault("POST", REGISTER, faults.hold_request(register_released))
            system.proxy.fault("POST", HEARTBEAT, NOT_REGISTERED)
            await runner.goes_through("online", "registering")
            await system.proxy.seen("POST", REGISTER, 2)
            poll_released.set()
            assert (await system.end(run)).status == "completed"
            assert runner.actor.state == "registering"
            register_released.set()
            await runner.goes_through("online", "registering", "online")
            assert await system.result(run) == {"said": "unharmed"}
            assert system.reports(run) == ["started", "completed"]


@pytest.mark.parametrize(("method", "path"), [("GET", POLL), ("POST", REPORT + "started")], ids=["poll", "report"])
async def test_a_not_registered_that_is_answered_after_the_next_registration_changes_nothing(
    tmp_path: Path, method: str, path: str
) -> None:
    released = asyncio.Event()
    async with open_system(tmp_path, QUICK_BEATS) as system:
        if method == "POST":
            system.proxy.fault(method, path, faults.hold_instead(released, NOT_REGISTERED_ANSWER))
        async with system.running(make_home(tmp_path / "home")) as runner, waiter(tmp_path) as command:
            await system.proxy.seen("GET", POLL)
            if method == "GET":
                system.proxy.fault(method, path, faults.hold_instead(released, NOT_REGISTERED_ANSWER))
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            await system.proxy.seen(method, path, 2 if method == "GET" else 1)
            system.proxy.fault("POST", HEARTBEAT, NOT_REGISTERED)
            await runner.goes_through("online", "registering", "online")
            late_call = system.proxy.calls_for(method, path)[-1]
            released.set()
            await system.proxy.wait_for(lambda: late_call.answered_at is not None, "the end of the late call")
            # Its repetition has begun, so that the answer was taken in.
            await system.proxy.wait_for(lambda: system.proxy.calls_for(method, path)[-1] is not late_call)
            command.gate.write_line("unharmed")
            assert (await system.end(run)).status == "completed"
            assert runner.path == ["recovering", "registering", "online", "registering", "online"]
            assert len(system.proxy.acknowledged("POST", REGISTER)) == 2


async def test_a_registration_that_succeeds_while_the_runner_drains_is_used(tmp_path: Path) -> None:
    """The coordinator was restarted and has forgotten it: the next heartbeat is taken under the new registration."""
    database = tmp_path / "coordinator.sqlite"
    released = asyncio.Event()
    async with (
        open_system(tmp_path, Timings(poll_timeout_s=60, heartbeat_interval_s=1), database=database) as system,
        waiter(tmp_path) as command,
        system.running(make_home(tmp_path / "home"), grace_period_s=PATIENCE_S) as runner,
    ):
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.answered("POST", REPORT + "started")
        await system.server.stop()
        await runner.goes_through("disconnected")
        system.proxy.fault("POST", REGISTER, faults.hold_request(released))
        port = int(system.proxy.upstream_url.rsplit(":")[-1])
        async with CoordinatorServer(port=port, database=database, timings=QUICK_BEATS):
            await system.proxy.seen("POST", REGISTER, 2)
            runner.actor.post("drain_requested", "the test wants it")
            await runner.goes_through("draining")
            released.set()
            await system.proxy.answered("POST", REGISTER, 2)
            beaten = len(system.proxy.acknowledged("POST", HEARTBEAT))
            # The new registration's interval is the one that counts: by the first one, these took minutes.
            await system.proxy.answered("POST", HEARTBEAT, beaten + 5)
            command.gate.write_line("in time")
            assert await runner.ended() == "stopped"
            assert (await system.api.run(run.run_id)).status == "completed"
            assert system.reports(run) == ["started", "completed"]
            assert len(system.proxy.calls_for("POST", REPORT + "completed")) == 1
            assert len(system.proxy.calls_for("POST", REGISTER)) == 2
            assert len(system.proxy.acknowledged("DELETE", "/runners/.*")) == 1


async def test_a_page_in_place_of_an_acknowledgement_is_an_outage_whatever_its_status(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", TERMINAL_REPORT, PAGE_NOT_FOUND, times=3)
        run = await system.submit("say", text="x")
        assert (await system.end(run)).status == "completed"
        assert system.states[run.run_id][-1] == "completed"
        assert system.reports(run) == ["started", "completed"]
        assert len(system.proxy.calls_for("POST", TERMINAL_REPORT)) == 4


async def test_a_page_in_place_of_a_registration_is_an_outage_whatever_its_status(tmp_path: Path) -> None:
    async with open_system(tmp_path, QUICK_BEATS) as system:
        system.proxy.fault("POST", REGISTER, PAGE_NOT_FOUND, times=2)
        async with system.running(make_home(tmp_path / "home")) as runner:
            system.proxy.fault("POST", REGISTER, PAGE_NOT_FOUND, times=2)
            system.proxy.fault("POST", HEARTBEAT, NOT_REGISTERED)
            await runner.goes_through("registering", "online", "registering", "online")
            await system.completes()
        assert len(system.proxy.calls_for("POST", REGISTER)) == 6


async def test_a_stop_in_an_answer_that_is_lost_reaches_its_run(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        await system.proxy.seen("GET", POLL)
        system.proxy.fault("GET", POLL, faults.lost_answer())
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.answered("POST", REPORT + "started")
        await system.proxy.seen("GET", POLL, 2)
        await system.api.stop_run(run.run_id)
        assert (await system.end(run)).status == "stopped"
        assert system.reports(run) == ["started", "stopped"]


async def test_a_stop_reaches_its_run_beside_one_of_another_runner_that_cannot_be_read(tmp_path: Path) -> None:
    foreign = {"run_id": 7, "session_id": "ses_x", "runner_id": "runner_x", "type": "dance", "parameters": [1]}

    def with_foreign_run(answer: Answer) -> Answer:
        body = msgspec.json.decode(answer.body)
        return Answer(200, msgspec.json.encode({**body, "runs": [foreign, *body["runs"]]}))

    async with running(tmp_path, max_runs=1) as (system, _), waiter(tmp_path) as command:
        system.proxy.fault("GET", "/runs", faults.rewrite(with_foreign_run), times=None)
        run = await system.submit("wait", **command.parameters)
        await command.started.pid()
        await system.proxy.answered("POST", REPORT + "started")
        await system.api.stop_run(run.run_id)
        assert (await system.end(run)).status == "stopped"


async def test_a_run_that_is_handed_out_again_after_its_end_is_looked_up_and_not_carried_out(
    tmp_path: Path,
) -> None:
    handed_out: list[Answer] = []

    def second_as_first(answer: Answer) -> Answer:
        if b'"run"' not in answer.body:
            return answer
        handed_out.append(answer)
        return handed_out[0]

    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", POLL, faults.rewrite(second_as_first), times=None)
        async with system.running(make_home(tmp_path / "home")):
            run = await system.completes()
            states = system.states[run.run_id].copy()
            swallowed = await system.submit("say", text="the first one comes in its place")
            await system.proxy.answered("GET", f"/runs/{run.run_id}")
            assert system.states[run.run_id] == states
            assert system.states[swallowed.run_id] == []
            assert system.reports(run) == ["started", "completed"]


async def test_a_run_that_a_restarted_coordinator_hands_out_again_is_reported_again_and_not_carried_out(
    tmp_path: Path,
) -> None:
    def as_if_not_ended(answer: Answer) -> Answer:
        return Answer(200, msgspec.json.encode({**msgspec.json.decode(answer.body), "status": "claimed"}))

    async with open_system(tmp_path) as system, system.running(make_home(tmp_path / "home")):
        run = await system.completes()
        states = system.states[run.run_id].copy()
        claimed = msgspec.structs.replace(await system.api.run(run.run_id), status="claimed")
        again = Answer(200, msgspec.json.encode({"run": claimed}))
        system.proxy.fault("GET", f"/runs/{run.run_id}", faults.rewrite(as_if_not_ended))
        system.proxy.fault("GET", POLL, faults.instead("run again", again))
        await system.submit("say", text="the held poll is answered, and the next one brings the first run again")
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed", 2)
        assert system.states[run.run_id] == states


async def test_a_defect_in_the_delivery_of_a_report_fails_the_run_and_the_runner_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(api: CoordinatorApi, path: str, body: bytes, method: str) -> None:
        raise ZeroDivisionError(path)

    async with running(tmp_path) as (system, runner):
        with monkeypatch.context() as patch:
            patch.setattr(CoordinatorApi, "deliver", broken)
            run = await system.submit("say", text="x")
            await system.end(run)
        assert system.states[run.run_id][-2:] == ["reporting", "failed"]
        assert system.reports(run) == []
        await system.completes()
        assert runner.actor.state == "online"


async def test_changes_of_a_script_that_are_under_way_end_with_their_owner(tmp_path: Path) -> None:
    async with script_bench(tmp_path, {"tidy": "echo '{}'"}) as system, CoordinatorApi(system.proxy.url) as api:
        system.proxy.fault("GET", DOWNLOAD, faults.hold(asyncio.Event()), times=None)
        sync = ScriptSync(CoordinatorClient(api, FAST), tmp_path)
        sync.sync(["tidy"])
        sync.remove(["tidy"])
        sync.sync(["tidy"])
        await system.proxy.seen("GET", DOWNLOAD)
        assert len(_script_tasks()) == 3
        await sync.aclose()
        assert _script_tasks() == []
        assert len(system.proxy.calls_for("GET", DOWNLOAD)) == 1


async def test_a_script_whose_description_does_not_repeat_its_name_is_run(tmp_path: Path) -> None:
    async with script_bench(tmp_path, {"tidy": "echo '{\"tidied\": true}'"}) as system:
        description = tmp_path / "scripts" / "tidy" / "script.json"
        description.write_bytes(msgspec.json.encode({"script_file": "run.sh"}))
        async with system.running(make_home(tmp_path / "home")):
            run = await system.completes("run-tidy", what="a broom")
            assert await system.result(run) == {"tidied": True}


def _script_tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("script ")]
