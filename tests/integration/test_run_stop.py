"""A stop, in each state of a run."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.protocol.wire import RunCreated
from tests.support import faults
from tests.support.faults import Kind
from tests.support.home import make_home
from tests.support.processes import gone
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT
from tests.support.runner import System, open_system, running, waiter
from tests.support.scripts import script_bench


async def test_a_stop_that_comes_with_the_claim_starts_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("GET", POLL, _adds_a_stop(), times=None)
        run = await system.submit("say", text="never")
        assert (await system.end(run)).status == "stopped"
        assert system.states[run.run_id] == ["claimed", "reporting", "stopped"]
        assert system.reports(run) == ["stopped"]
        assert _signal(system) == "shutdown"


async def test_a_stop_while_the_workspace_is_prepared_starts_nothing(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with script_bench(tmp_path, {"tidy": "echo tidied"}) as system:
        system.proxy.fault("GET", "/scripts/tidy/download", faults.hold(released), times=None)
        async with system.running(make_home(tmp_path / "home")):
            run = await system.submit("run-tidy")
            await system.state(run, "preparing_workspace")
            await system.api.stop_run(run.run_id)
            assert (await system.end(run)).status == "stopped"
            assert system.states[run.run_id] == ["claimed", "preparing_workspace", "reporting", "stopped"]
            assert system.reports(run) == ["stopped"]
            released.set()


@pytest.mark.parametrize(("agent", "signal"), [("wait", "SIGTERM"), ("ignore-sigterm", "SIGKILL")])
async def test_a_stop_ends_a_command_and_says_what_that_took(tmp_path: Path, agent: str, signal: str) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        run = await system.submit(agent, **command.parameters)
        pid = await command.started.pid()
        await system.api.stop_run(run.run_id)
        assert (await system.end(run)).status == "stopped"
        assert system.states[run.run_id] == [
            "claimed",
            "preparing_workspace",
            "executing",
            "stopping",
            "reporting",
            "stopped",
        ]
        assert system.reports(run) == ["started", "stopped"]
        assert _signal(system) == signal
        await gone(pid)


async def test_a_stop_ends_the_descendants_of_the_command(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        run = await system.submit("leave-a-child", **command.parameters)
        grandchild = await command.started.pid()
        await system.api.stop_run(run.run_id)
        await system.end(run)
        await gone(grandchild)


async def test_a_second_stop_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path) as command:
        run = await system.submit("ignore-sigterm", **command.parameters)
        await command.started.pid()
        await system.api.stop_run(run.run_id)
        await system.state(run, "stopping")
        system.proxy.fault("GET", POLL, _adds_a_stop(run.session_id), times=None)
        await system.completes()
        assert system.states[run.run_id][-1] == "stopping"
        command.gate.write_line()
        assert (await system.end(run)).status == "stopped"
        assert system.reports(run) == ["started", "stopped"]


@pytest.mark.parametrize(
    ("agent", "parameters", "status"), [("say", {"text": "done"}, "completed"), ("fail", {"code": 2}, "failed")]
)
async def test_a_stop_that_comes_after_the_end_changes_nothing(
    tmp_path: Path, agent: str, parameters: dict[str, Any], status: str
) -> None:
    released = asyncio.Event()
    async with running(tmp_path) as (system, _):
        system.proxy.fault("POST", TERMINAL_REPORT, faults.hold_request(released))
        run = await system.submit(agent, **parameters)
        await system.proxy.seen("POST", TERMINAL_REPORT)
        await system.api.stop_run(run.run_id)
        await _stop_is_told(system, run)
        released.set()
        assert (await system.end(run)).status == status
        assert system.states[run.run_id][-2:] == ["reporting", status]
        assert system.reports(run) == ["started", status]


async def test_the_stop_of_one_run_leaves_the_others_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _), waiter(tmp_path, "one") as one, waiter(tmp_path, "other") as other:
        stopped = await system.submit("wait", **one.parameters)
        kept = await system.submit("wait", **other.parameters)
        await one.started.pid()
        await other.started.pid()
        await system.api.stop_run(stopped.run_id)
        assert (await system.end(stopped)).status == "stopped"
        other.gate.write_line("well")
        assert (await system.end(kept)).status == "completed"
        assert await system.result(kept) == {"heard": "well"}


async def test_a_stop_for_a_session_that_is_not_here_changes_nothing(tmp_path: Path) -> None:
    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", POLL, _adds_a_stop("ses_elsewhere"), times=None)
        async with system.running(make_home(tmp_path / "home")):
            await system.completes()


def _adds_a_stop(session_id: str | None = None) -> Kind:
    """The next run comes with a stop: of this session, else of its own."""
    return faults.rewrite_run(lambda body: {**body, "stop_sessions": [session_id or body["run"]["session_id"]]})


async def _stop_is_told(system: System, run: RunCreated) -> None:
    """Return when the runner has polled again after the poll that carried the stop."""
    polls = len(system.proxy.calls_for("GET", POLL))
    held = system.proxy.calls_for("GET", POLL)[-1]
    if held.answered_at is None:
        await system.proxy.seen("GET", POLL, polls + 1)


def _signal(system: System) -> str:
    (report,) = system.proxy.acknowledged("POST", REPORT + "stopped")
    signal: str = report.json["signal"]
    return signal
