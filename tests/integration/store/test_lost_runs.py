"""The runs of a runner that has left fail, or are queued again."""

from typing import Any

import pytest

from fsm_runner.coordinator_server.store.interface import Closed
from tests.support.stores import NO_AUTHOR, StoreUser

NONE_QUEUED_AGAIN = Closed(requeued_sessions=[], limited_agents=frozenset())


async def test_the_open_runs_of_a_runner_that_has_left_fail(user: StoreUser) -> None:
    claimed, running, stopping, other = [await user.submit() for _ in range(4)]
    for _ in range(3):
        await user.claimed("one")
    await user.claimed("two")
    for run in (running, stopping):
        await user.store.report_started(run.run_id, user.reporter("one"))
    await user.store.stop_run(stopping.run_id)
    assert await user.store.close_runner("one", "it has left") == NONE_QUEUED_AGAIN
    for run in (claimed, running, stopping):
        assert await user.statuses(run) == ("failed", "failed")
        assert (await user.store.run(run.run_id))["error"] == "it has left"
        event = (await user.events(run.session_id))[-1]
        assert (event["event_type"], event["status"], event["error"]) == ("run_completed", "failed", "it has left")
    assert await user.status(other) == "claimed"
    assert await user.store.close_runner("one", "again") == NONE_QUEUED_AGAIN


async def test_the_idle_sessions_of_a_runner_that_has_left_are_finished(user: StoreUser) -> None:
    idle, moved, other = [await user.submit() for _ in range(3)]
    for _ in range(2):
        await user.completed("one", session_status="idle")
    await user.completed("two", session_status="idle")
    await user.submit(resumes=moved.session_id)
    await user.completed("two", session_status="idle")
    await user.submit(resumes=idle.session_id)  # still waits
    await user.store.close_runner("one", "it has left")
    assert await user.store.session_status(idle.session_id) == "finished"
    assert await user.store.session_status(moved.session_id) == "idle"
    assert await user.store.session_status(other.session_id) == "idle"


@pytest.mark.parametrize("is_started", [True, False])
async def test_a_lost_run_with_a_retry_is_queued_again_at_its_place(user: StoreUser, *, is_started: bool) -> None:
    first, second = await user.submit(retry_lost=1, queue_ttl_seconds=30), await user.submit()
    await user.claimed("one")
    if is_started:
        await user.store.report_started(first.run_id, user.reporter("one"))
    workflow = b'{"name":"w","state":"s","since":"","visit":1}'
    await user.store.update_session(first.session_id, NO_AUTHOR, limit=b'{"kind":"x"}', workflow=workflow)
    user.changes.clear()
    user.now_s += 60
    closed = await user.store.close_runner("one", "it has left")
    assert first.class_id is not None
    assert closed.requeued_sessions == [first.session_id]
    assert [change.type for change in user.changes] == ["run_updated", "session_updated"]
    assert await user.statuses(first) == ("pending", "pending")
    expected = {"attempt": 2, "runner_id": None, "claimed_at": None, "started_at": None, "error": None}
    assert (await user.store.run(first.run_id)).items() >= expected.items()
    assert {"limit", "workflow"}.isdisjoint(await user.store.session(first.session_id))
    # A runner that comes back may report the end of an executor that it still has.
    await user.store.report_session_end(first.session_id, user.reporter("one"), "finished")
    assert await user.statuses(first) == ("pending", "pending")
    await user.store.tick()  # a run that was claimed in time does not expire
    again = await user.claimed("two")
    assert (again.run_id, again.run["attempt"]) == (first.run_id, 2)
    assert (await user.claimed("two")).run_id == second.run_id
    # The only retry is used.
    assert (await user.store.close_runner("two", "it has left too")).requeued_sessions == []
    assert await user.status(first) == "failed"


async def test_the_holders_are_the_runners_that_have_runs_or_idle_sessions(user: StoreUser) -> None:
    assert await user.store.holders() == []
    runs = {}
    for runner in ("claimed", "running", "stopping", "idle", "resumed", "ended"):
        runs[runner] = await user.submit()
        await user.claimed(runner)
        if runner != "claimed":
            await user.store.report_started(runs[runner].run_id, user.reporter(runner))
    await user.store.stop_run(runs["stopping"].run_id)
    for runner in ("idle", "resumed"):
        await user.store.report_completed(runs[runner].run_id, user.reporter(runner), "idle")
    await user.store.report_completed(runs["ended"].run_id, user.reporter("ended"), "finished")
    await user.submit(resumes=runs["resumed"].session_id)
    await user.completed("idle", session_status="idle")
    await user.submit()
    await user.submit(runner_id="demanded")
    holders = ["claimed", "demanded", "idle", "running", "stopping"]
    assert sorted(await user.store.holders()) == holders
    for runner in holders:
        await user.store.close_runner(runner, "it has left")
    assert await user.store.holders() == []


async def lost(user: StoreUser, *, stops: bool = False, fenced: bool = True, **fields: Any) -> str:
    """Return the status of a run whose runner has left."""
    run = await user.submit(**fields)
    await user.claimed("one", fenced=fenced)
    if stops:
        await user.store.stop_run(run.run_id)
    await user.store.close_runner("one", "it has left")
    return await user.status(run)


async def test_a_lost_run_fails_if_it_cannot_be_repeated(user: StoreUser) -> None:
    assert await lost(user, retry_lost=1) == "pending"
    await user.store.stop_run((await user.listed(status="pending"))[0])
    assert await lost(user) == "failed"
    assert await lost(user, retry_lost=1, fenced=False) == "failed"
    assert await lost(user, retry_lost=1, stops=True) == "failed"
    assert await lost(user, retry_lost=1, runner_id="one") == "failed"


async def test_a_run_that_its_runner_may_still_execute_is_not_queued_again(user: StoreUser) -> None:
    run = await user.submit(retry_lost=1)
    await user.started("one")
    assert await user.store.close_runner("one", "deregistered", may_requeue=False) == NONE_QUEUED_AGAIN
    assert await user.statuses(run) == ("failed", "failed")
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    assert await user.statuses(run) == ("completed", "finished")


async def test_the_fence_of_a_claim_ends_with_the_claim(user: StoreUser) -> None:
    run = await user.submit(retry_lost=1)
    await user.claimed("one")
    await user.store.release(run.run_id)
    await user.claimed("two", fenced=False)
    assert (await user.store.close_runner("two", "gone")).requeued_sessions == []


async def test_the_agents_with_a_limit_that_hold_fewer_runs_are_named(user: StoreUser) -> None:
    for agent in ("heavy", "repeated"):
        await user.submit(agent, limited=True, retry_lost=agent == "repeated")
    await user.submit("light")
    for _ in range(3):
        await user.claimed("one")
    closed = await user.store.close_runner("one", "gone")
    assert closed.limited_agents == {"heavy", "repeated"}
    assert await user.claim(max_running={"repeated": 1}) is not None


async def test_pending_runs_that_demand_a_runner_that_has_left_do_not_demand_it_any_more(user: StoreUser) -> None:
    run, other = await user.submit(), await user.submit()
    await user.completed("one", session_status="idle")
    await user.completed("two", session_status="idle")
    demands: dict[str, Any] = {"hostname": "h", "limited": True}
    now, later, late = [
        await user.submit(resumes=run.session_id, runner_id="one", **demands, **options)
        for options in ({}, {"not_before": user.at(60)}, {})
    ]
    kept = await user.submit(resumes=other.session_id, runner_id="two", **demands)
    await user.completed("one", class_ids=[now.class_id or 0])
    assert (await user.store.close_runner("one", "gone")).has_unpinned
    user.now_s += 60
    ready = await user.store.tick()
    (free,) = [class_id for class_id, each in ready.items() if each.demands.runner_id is None]
    assert (ready[free].demands.hostname, ready[free].limited_agent) == ("h", "echo")
    claimed = [(await user.claimed("three", class_ids=[free])).run_id for _ in range(2)]
    assert claimed == [later.run_id, late.run_id]
    assert await user.status(kept) == "pending"
    assert kept.class_id in ready
    # Only ended runs demand it by now.
    assert not (await user.store.close_runner("one", "again")).has_unpinned


async def test_runs_that_demand_no_runner_any_more_join_the_class_of_those_that_never_did(user: StoreUser) -> None:
    run = await user.submit()
    await user.completed("one", session_status="idle")
    for _ in range(2):
        await user.submit(resumes=run.session_id, runner_id="one")
    assert (await user.store.close_runner("one", "gone")).has_unpinned
    assert set(await user.store.tick()) == {run.class_id}
    await user.claimed("two", class_ids=[run.class_id or 0])
    await user.claimed("two", class_ids=[run.class_id or 0])
    assert await user.store.tick() == {}
