"""Decisions about the approvals of workflows."""

import msgspec
import pytest

from fsm_runner.coordinator_server.errors import AlreadyDecided, Conflict, NotFound
from fsm_runner.coordinator_server.store.interface import CreatedRun
from fsm_runner.protocol.approvals import ApprovalRequest, Decided, DecisionRequest, WorkflowState
from tests.support.stores import NO_AUTHOR, StoreUser


def decision(run: CreatedRun, identifier: str = "d1", *, approved: bool = True) -> DecisionRequest:
    return DecisionRequest(
        run_id=run.run_id, visit=0, approved=approved, by="kim", at="2026-03-01T12:00:00Z", id=identifier
    )


async def shown(
    user: StoreUser, run: CreatedRun, visit: int, *, decided: Decided | None = None, waits: bool = True
) -> None:
    approval = ApprovalRequest(question="Merge?", visit=visit) if waits else None
    state = WorkflowState(name="w", state="s", since="then", visit=visit, approval=approval, decided=decided)
    await user.store.update_session(run.session_id, NO_AUTHOR, workflow=msgspec.json.encode(state))
    await user.store.note_workflow(run.session_id)


async def test_a_decision_is_delivered_until_the_runner_shows_it(user: StoreUser) -> None:
    other, run = await user.submit(), await user.submit()
    for _ in range(2):
        await user.started()
    with pytest.raises(Conflict, match="waits for no approval"):
        await user.store.add_decision(decision(run))
    await shown(user, run, 3)
    await shown(user, other, 1)
    pending = await user.store.pending_approvals()
    assert [(listed.run_id, listed.visit, listed.question) for listed in pending] == [
        (other.run_id, 1, "Merge?"),
        (run.run_id, 3, "Merge?"),
    ]
    stored = await user.store.add_decision(decision(run))
    assert (stored.visit, stored.runner_id, stored.id) == (3, "one", "d1")
    assert await user.store.add_decision(decision(run, "d2", approved=False)) == stored
    assert [listed.run_id for listed in await user.store.pending_approvals()] == [other.run_id]
    assert await user.store.undelivered_decisions() == [stored]
    assert await user.store.decision_outcome(stored) is None
    confirmed = msgspec.convert(stored, Decided, from_attributes=True)
    await shown(user, run, 3, decided=confirmed)
    assert await user.store.undelivered_decisions() == []
    assert await user.store.decision_outcome(stored) == confirmed
    with pytest.raises(AlreadyDecided, match="d1"):
        await user.store.add_decision(decision(run, "d3"))
    with pytest.raises(NotFound):
        await user.store.add_decision(msgspec.structs.replace(decision(run), run_id="run_x"))


async def test_an_approval_that_has_ended_otherwise_makes_its_decision_obsolete(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    await shown(user, run, 3)
    await user.store.add_decision(decision(run))
    await shown(user, run, 4, waits=False)
    assert await user.store.undelivered_decisions() == []


async def test_a_run_that_is_queued_again_has_no_decisions(user: StoreUser) -> None:
    run = await user.submit(retry_lost=1)
    await user.started()
    await shown(user, run, 3)
    stored = await user.store.add_decision(decision(run))
    await user.store.close_runner("one", "gone")
    assert await user.store.pending_approvals() == []
    assert await user.store.undelivered_decisions() == []
    await user.started("two")
    assert await user.store.undelivered_decisions() == []
    await shown(user, run, 3)
    assert await user.store.decision_outcome(stored) is None
    assert (await user.store.add_decision(decision(run, "d2"))).runner_id == "two"
