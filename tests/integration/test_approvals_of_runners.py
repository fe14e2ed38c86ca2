"""Decisions that an embedded coordinator hands to a real runner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.app.control_requests import Decide
from fsm_runner.app.control_socket import SOCKET_FILE, Refused, ask
from fsm_runner.app.local_socket import sockets
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.coordinator_server.approvals import ApprovalDesk
from fsm_runner.coordinator_server.store.approvals import AlreadyDecided
from fsm_runner.protocol.approvals import ApprovalAnswer, Decided, DecisionResponse
from fsm_runner.protocol.wire import RunCreated
from tests.support.approval_home import make_approval_home
from tests.support.runner import System, open_system, waiter
from tests.support.watch import PATIENCE_S

YES, NO = ApprovalAnswer(approved=True), ApprovalAnswer(approved=False, comment="no")


@asynccontextmanager
async def asking(folder: Path, monkeypatch: pytest.MonkeyPatch, max_runs: int = 10) -> AsyncIterator[System]:
    monkeypatch.setenv(HOME_VARIABLE, str(folder / "home"))
    profile = make_approval_home(folder / "home")
    state_dir = folder / "state"
    async with open_system(folder) as system, system.running(profile, state_dir=state_dir, max_runs=max_runs):
        yield system


async def pending(system: System) -> RunCreated:
    """A run that waits for its approval, as the coordinator shows it."""
    run = await system.submit("say", text="hello")
    async with asyncio.timeout(PATIENCE_S):
        while run.run_id not in [each.run_id for each in (await desk(system).pending()).approvals]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
    return run


def desk(system: System) -> ApprovalDesk:
    """The part of the coordinator behind its HTTP, where a token is needed."""
    return system.server.coordinator.approvals


async def test_the_runner_confirms_a_decision_before_it_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, monkeypatch) as system:
        run = await pending(system)
        response = await desk(system).decide(run.run_id, YES, "ada")
        assert (response.confirmed, response.decision.by) == (True, "ada")
        assert (await system.end(run)).status == "completed"
        denied = await pending(system)
        assert (await desk(system).decide(denied.run_id, NO, "bob")).confirmed
        assert (await system.end(denied)).error == "denied by bob: no"


async def test_a_runner_that_is_full_finds_the_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(tmp_path, monkeypatch, max_runs=1) as system, waiter(tmp_path) as held:
        run = await pending(system)
        await system.submit("wait", **held.parameters)
        await held.started.pid()
        assert (await desk(system).decide(run.run_id, NO, "ada")).confirmed
        held.gate.write_line()
        assert (await system.end(run)).error == "denied by ada: no"


async def test_of_two_decisions_at_once_on_both_ways_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, monkeypatch) as system:
        run = await pending(system)
        (path,) = sockets(tmp_path / "state", SOCKET_FILE)
        answers = await asyncio.gather(
            desk(system).decide(run.run_id, YES, "ada"),
            ask(path, Decide(run_id=run.run_id, approved=False, comment="no"), Decided),
            return_exceptions=True,
        )
        over_http, at_socket = answers
        if isinstance(over_http, DecisionResponse):
            assert over_http.confirmed
            assert isinstance(at_socket, Refused)
            assert "already approved by ada" in str(at_socket)
        else:
            assert isinstance(over_http, AlreadyDecided)
            assert isinstance(at_socket, Decided)
            assert at_socket.id == over_http.detail["decision"]["id"]  # type: ignore[call-overload, index]  # an object
        ended = await system.end(run)
        assert ended.status == ("completed" if isinstance(over_http, DecisionResponse) else "failed")
