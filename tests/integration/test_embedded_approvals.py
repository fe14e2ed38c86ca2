"""Approvals at the embedded coordinator: decisions over HTTP, and their way to the runner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.approvals import COMMENT_LIMIT_CHARS
from tests.support.embedded import HELD_FOR_LONG, EmbeddedCoordinator, embedded_coordinator
from tests.support.issuer import Issuer, issuing
from tests.support.watch import PATIENCE_S

SUBJECT = "ada@example"
QUICK = Timings(poll_timeout_s=10 * PATIENCE_S, confirmation_s=0.05, redelivery_s=0.05)
CONFIRMING = Timings(poll_timeout_s=10 * PATIENCE_S, confirmation_s=10 * PATIENCE_S, redelivery_s=0.05)
APPROVAL = {"question": "Merge?", "due": "2026-03-02T15:00:00Z", "visit": 3}
WORKFLOW = {"name": "ask-first", "state": "ask", "since": "2026-03-01T15:00:00Z", "visit": 3, "approval": APPROVAL}


@pytest.fixture
async def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    async with issuing(tmp_path) as (issuer, authority_file):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
        yield issuer


class Runner:
    """A runner with one run, which the test plays."""

    def __init__(self, coordinator: EmbeddedCoordinator, runner_id: str, run: dict[str, Any]) -> None:
        self.coordinator = coordinator
        self.id = runner_id
        self.run_id = run["run_id"]
        self.run = run

    async def show(self, workflow: dict[str, Any] | None) -> None:
        path = f"/sessions/{self.run['session_id']}/metadata"
        answer = await self.coordinator.http.patch(path, json={"workflow": workflow})
        assert answer.status_code == 200, answer.text

    async def confirm(self, decision: dict[str, Any]) -> None:
        decided = {name: decision[name] for name in ("visit", "approved", "by", "comment", "at", "id")}
        await self.show({**WORKFLOW, "approval": None, "decided": decided})

    async def decide(self, *, approved: bool = True, comment: str = "") -> httpx.Response:
        body = {"approved": approved, "comment": comment}
        return await self.coordinator.http.post(f"/runs/{self.run_id}/approval", json=body)

    async def delivered(self) -> dict[str, Any]:
        """The decision in the response to a poll."""
        (decision,) = (await self.coordinator.poll(self.id)).json()["approvals"]
        assert decision["run_id"] == self.run_id
        return dict(decision)

    async def pending(self) -> list[dict[str, Any]]:
        approvals: list[dict[str, Any]] = (await self.coordinator.http.get("/approvals")).json()["approvals"]
        return approvals


@asynccontextmanager
async def asking(issuer: Issuer, timings: Timings = QUICK, **settings: Any) -> AsyncIterator[Runner]:
    """A run that waits for an approval."""
    async with embedded_coordinator(timings, token_requirements=issuer.requirements, **settings) as coordinator:
        coordinator.http.headers["authorization"] = f"Bearer {issuer.token(sub=SUBJECT)}"
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        await coordinator.report(run, "started", runner_id)
        runner = Runner(coordinator, runner_id, run)
        await runner.show(WORKFLOW)
        yield runner


@asynccontextmanager
async def confirming(runner: Runner) -> AsyncIterator[list[dict[str, Any]]]:
    """Confirm the next decision. Yields the confirmed ones."""
    confirmed: list[dict[str, Any]] = []

    async def work() -> None:
        decision = await runner.delivered()
        confirmed.append(decision)
        await runner.confirm(decision)

    task = asyncio.create_task(work())
    try:
        yield confirmed
        await task
    finally:
        task.cancel()


@pytest.mark.parametrize(("method", "path"), [("GET", "/approvals"), ("POST", "/runs/run_1/approval")])
async def test_without_tokens_the_calls_explain_how_to_enable_them(method: str, path: str) -> None:
    async with embedded_coordinator(HELD_FOR_LONG) as coordinator:
        answer = await coordinator.http.request(method, path, json={"approved": True})
    assert answer.status_code == 403
    assert "AUTH_ENABLED=true" in answer.json()["detail"]


async def test_a_pending_approval_is_listed_and_decided_by_the_subject_of_the_token(issuer: Issuer) -> None:
    async with asking(issuer, CONFIRMING) as runner:
        (listed,) = await runner.pending()
        assert listed == {
            "run_id": runner.run_id,
            "session_id": runner.run["session_id"],
            "workflow": "ask-first",
            "state": "ask",
            "question": "Merge?",
            "since": WORKFLOW["since"],
            "due": APPROVAL["due"],
            "visit": 3,
        }
        async with confirming(runner) as confirmed:
            answer = await runner.decide(comment="good \x1b[31m")
        assert answer.status_code == 200
        decision = answer.json()["decision"]
        assert answer.json()["confirmed"]
        assert decision.items() <= confirmed[0].items()
        assert (decision["by"], decision["comment"], decision["approved"]) == (SUBJECT, "good \x1b[31m", True)
        assert await runner.pending() == []
        late = await runner.decide(approved=False)
        assert late.status_code == 409
        assert late.json()["detail"]["decision"] == decision
        assert f"already approved by {SUBJECT} at {decision['at']}" in late.json()["detail"]["message"]


async def test_of_two_decisions_at_once_one_counts(issuer: Issuer) -> None:
    async with asking(issuer, CONFIRMING) as runner:
        async with confirming(runner) as confirmed:
            answers = await asyncio.gather(runner.decide(approved=True), runner.decide(approved=False))
        assert sorted(each.status_code for each in answers) == [200, 409]
        by_status = {each.status_code: each.json() for each in answers}
        assert by_status[409]["detail"]["decision"] == by_status[200]["decision"]
        assert confirmed[0]["id"] == by_status[200]["decision"]["id"]


async def test_a_decision_that_the_runner_took_elsewhere_counts(issuer: Issuer) -> None:
    decided = {"visit": 3, "approved": False, "by": "bob", "comment": "no", "at": "2026-03-01T16:00:00Z", "id": "x"}
    async with asking(issuer, CONFIRMING) as runner:
        deciding = asyncio.create_task(runner.decide())
        await runner.delivered()
        await runner.show({**WORKFLOW, "approval": None, "decided": decided})
        answer = await deciding
        assert answer.status_code == 409
        assert answer.json()["detail"]["decision"] == decided
        # It is not delivered again.
        poll = asyncio.create_task(runner.coordinator.poll(runner.id))
        await runner.coordinator.submit()
        assert "run" in (await poll).json()


async def test_a_decision_whose_delivery_was_lost_is_delivered_again_until_the_runner_shows_it(issuer: Issuer) -> None:
    async with asking(issuer) as runner:
        answer = await runner.decide()
        assert answer.status_code == 202
        assert not answer.json()["confirmed"]
        assert await runner.pending() == []
        first = await runner.delivered()
        assert await runner.delivered() == first
        # A runner that is full does not poll.
        looked_up = (await runner.coordinator.http.get("/runs?status=stopping")).json()
        assert looked_up == {"runs": [], "approvals": [first]}
        await runner.confirm(first)
        assert (await runner.coordinator.http.get("/runs?status=stopping")).json() == {"runs": []}


async def test_a_decision_survives_a_restart_of_the_coordinator(issuer: Issuer, tmp_path: Path) -> None:
    database = tmp_path / "coordinator.db"
    async with asking(issuer, database=database) as runner:
        assert (await runner.decide(comment="ship it")).status_code == 202
    async with embedded_coordinator(QUICK, token_requirements=issuer.requirements, database=database) as coordinator:
        coordinator.http.headers["authorization"] = f"Bearer {issuer.token()}"
        assert await coordinator.register() == runner.id
        runner.coordinator = coordinator
        assert (await runner.delivered())["comment"] == "ship it"


async def test_what_cannot_be_decided_is_refused(issuer: Issuer) -> None:
    async with asking(issuer) as runner:
        assert (await runner.decide(comment="x" * (COMMENT_LIMIT_CHARS + 1))).status_code == 422
        assert (await runner.decide(comment="x" * 10_000_000)).status_code == 422
        assert (await runner.coordinator.http.post(f"/runs/{runner.run_id}/approval", json={})).status_code == 422
        assert (await runner.coordinator.http.post("/runs/run_0/approval", json={"approved": True})).status_code == 404
        await runner.show({**WORKFLOW, "approval": None})
        answer = await runner.decide()
        assert answer.status_code == 409
        assert answer.json()["detail"]["error"] == "no_pending_approval"
        await runner.show(WORKFLOW)
        assert len(await runner.pending()) == 1
        await runner.coordinator.report(runner.run, "failed", runner.id, error="stopped")
        assert await runner.pending() == []
        assert "workflow" not in await runner.coordinator.session(runner.run)


async def test_requests_without_a_valid_token_decide_nothing(issuer: Issuer) -> None:
    async with asking(issuer) as runner:
        headers = dict(runner.coordinator.http.headers)
        del runner.coordinator.http.headers["authorization"]
        assert (await runner.decide()).status_code == 401
        runner.coordinator.http.headers["authorization"] = headers["authorization"]
        assert len(await runner.pending()) == 1
