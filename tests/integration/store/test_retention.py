"""Sessions are deleted some time after the end of their last run, in small steps, or on request."""

import pytest

from fsm_runner.coordinator_server.errors import Conflict, NotFound
from tests.support.stores import StoreUser

DAY_S = 86_400


async def remaining(user: StoreUser) -> list[str]:
    return [session["session_id"] for session in (await user.store.sessions(None)).items][::-1]


async def test_sessions_are_deleted_after_the_end_of_their_last_run(user: StoreUser) -> None:
    old, renewed, young = [await user.submit() for _ in range(3)]
    for _ in range(3):
        await user.started()
    for run in (old, renewed):
        await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    user.now_s += DAY_S
    await user.store.report_completed(young.run_id, user.reporter("one"), "finished")
    await user.submit(resumes=renewed.session_id)
    await user.completed()
    user.now_s += 1
    user.changes.clear()
    assert await user.store.prune(DAY_S, 100) == 4  # a session, a run and two events
    assert await remaining(user) == [renewed.session_id, young.session_id]
    assert [(change.type, change.data["session_id"]) for change in user.changes] == [
        ("session_deleted", old.session_id)
    ]
    with pytest.raises(NotFound):
        await user.store.run(old.run_id)
    assert await user.store.prune(DAY_S, 100) == 0
    user.now_s += DAY_S
    await user.store.prune(DAY_S, 100)
    assert await remaining(user) == []
    assert await user.listed() == []


async def test_a_session_that_may_continue_is_kept(user: StoreUser) -> None:
    pending, waiting, running, idle, resumed, stopped = [await user.submit() for _ in range(6)]
    await user.store.stop_run(stopped.run_id)
    await user.store.stop_run(waiting.run_id)
    await user.submit(resumes=waiting.session_id, not_before=user.at(100 * DAY_S))
    for _ in range(4):
        await user.started()
    await user.store.report_completed(idle.run_id, user.reporter("one"), "idle")
    await user.store.report_completed(resumed.run_id, user.reporter("one"), "finished")
    await user.submit(resumes=resumed.session_id)
    await user.submit(resumes=pending.session_id)
    user.now_s += 2 * DAY_S
    while await user.store.prune(DAY_S, 100):
        pass
    kept = [pending, waiting, running, idle, resumed]
    assert await remaining(user) == [run.session_id for run in kept]
    # The executor of the idle session ends long after its last run.
    await user.store.report_session_end(idle.session_id, user.reporter("one"), "finished")
    await user.store.prune(DAY_S, 100)
    assert idle.session_id not in await remaining(user)


async def test_a_large_session_is_deleted_over_several_calls(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    for _ in range(25):
        await user.event(run.session_id)
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    for _ in range(12):
        await user.submit(resumes=run.session_id)
        await user.completed()
    user.now_s += 2
    deleted = []
    while count := await user.store.prune(1, 10):
        assert count <= 11
        deleted.append(count)
    assert sum(deleted) == 1 + 13 + 25 + 26
    assert len(deleted) >= 6
    assert await remaining(user) == []


async def test_only_a_session_without_an_executor_can_be_deleted(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    with pytest.raises(Conflict, match="Session is running"):
        await user.store.delete_session(run.session_id)
    await user.store.report_completed(run.run_id, user.reporter("one"), "idle")
    with pytest.raises(Conflict, match="Session is idle"):
        await user.store.delete_session(run.session_id)
    await user.store.report_session_end(run.session_id, user.reporter("one"), "finished")
    await user.event(run.session_id)
    user.changes.clear()
    assert await user.store.delete_session(run.session_id) == {"runs_count": 1, "events_count": 3}
    assert [(change.type, change.data) for change in user.changes] == [
        ("session_deleted", {"session_id": run.session_id, "runs_deleted": 1})
    ]
    assert await user.listed() == []


async def test_a_pending_run_is_deleted_with_its_session(user: StoreUser) -> None:
    run = await user.submit()
    await user.store.delete_session(run.session_id)
    assert await user.claim() is None
    assert await user.store.tick() == {}
    assert await user.store.queue({}) == []


async def test_a_class_without_runs_is_forgotten_and_its_id_gets_no_other_meaning(user: StoreUser) -> None:
    old = await user.submit(tags=("old",))
    await user.completed()
    user.now_s += 2
    assert await user.store.prune(1, 100)
    new = await user.submit(tags=("new",))
    assert new.class_id is not None
    assert old.class_id is not None
    assert new.class_id != old.class_id
    again = await user.submit(tags=("old",))
    assert (await user.claimed(class_ids=[again.class_id or 0])).run_id == again.run_id
