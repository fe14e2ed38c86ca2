"""Decisions that an embedded coordinator hands to a real runner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.app.control_requests import Decide, ListApprovals
from fsm_runner.app.control_socket import SOCKET_FILE, Refused, ask
from fsm_runner.app.local_socket import sockets
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.coordinator_server.approvals import ApprovalDesk
from fsm_runner.coordinator_server.errors import AlreadyDecided
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.approvals import ApprovalAnswer, ApprovalList, Decided, DecisionResponse, ListedApproval
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import Run, RunCreated
from tests.support.approval_home import make_approval_home
from tests.support.home import PROFILE
from tests.support.program import environment, program
from tests.support.runner import System, open_system, waiter
from tests.support.watch import PATIENCE_S

SOON_STALE = Timings(stale_after_s=0.2, confirmation_s=0.1, redelivery_s=0.2)
"""The coordinator soon accepts the successor of a killed runner."""
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


async def test_an_approval_survives_a_kill_and_a_decision_waits_for_the_next_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_approval_home(home)
    async with open_system(tmp_path, SOON_STALE) as system:
        flags = ("--profile", PROFILE, "-c", system.proxy.url, "--state-dir", str(tmp_path / "state"))
        async with program(tmp_path, environment(home), *flags) as runner:
            await runner.said("online")
            runs = [await pending(system) for _ in range(2)]
            before = await asked_by_runner(tmp_path)
            runner.process.kill()
            await runner.exit_code()
        assert not (await desk(system).decide(runs[0].run_id, NO, "ada")).confirmed
        async with program(tmp_path, environment(home), *flags) as runner:
            await runner.said("online")
            ended = await ended_run(system, runs[0])
            assert (ended.status, ended.error) == ("failed", "denied by ada: no")
            assert await asked_by_runner(tmp_path) == [each for each in before if each.run_id == runs[1].run_id]
            (path,) = sockets(tmp_path / "state", SOCKET_FILE)
            assert await ask(path, Decide(run_id=runs[1].run_id, approved=True), Decided) is not None
            assert (await ended_run(system, runs[1])).status == "completed"


async def asked_by_runner(folder: Path) -> list[ListedApproval]:
    (path,) = sockets(folder / "state", SOCKET_FILE)
    answer = await ask(path, ListApprovals(), ApprovalList)
    assert answer is not None
    return answer.approvals


async def ended_run(system: System, run: RunCreated) -> Run:
    """The run at its end, as the coordinator has it."""
    async with asyncio.timeout(PATIENCE_S):
        while (now := await system.api.run(run.run_id)).status not in TERMINAL_RUN_STATUSES:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
        return now
