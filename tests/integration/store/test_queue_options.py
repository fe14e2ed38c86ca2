"""Runs that wait for a time or expire, repeated requests, and the numbers of `GET /queue`."""

import msgspec
import pytest

from fsm_runner.coordinator_server.errors import Conflict
from fsm_runner.coordinator_server.store.interface import QueueEntry
from tests.support.stores import StoreUser


async def test_a_run_is_not_claimed_before_its_time(user: StoreUser) -> None:
    first = await user.submit()
    waiting = await user.submit(not_before=user.at(60))
    assert waiting.class_id is None
    assert (await user.store.run(waiting.run_id))["not_before"] == user.at(60)
    last = await user.submit()
    assert set(await user.store.tick()) == {first.class_id}
    assert (await user.claimed()).run_id == first.run_id
    user.now_s += 59
    assert set(await user.store.tick()) == {first.class_id}
    user.now_s += 1
    assert await user.store.tick() == user.classes
    # Its place is that of its submission.
    assert [(await user.claimed()).run_id for _ in range(2)] == [waiting.run_id, last.run_id]
    assert await user.store.tick() == {}


async def test_a_time_in_the_past_is_no_reason_to_wait(user: StoreUser) -> None:
    run = await user.submit(not_before=user.at(-60), queue_ttl_seconds=30)
    assert run.class_id is not None
    await user.store.tick()
    assert (await user.claimed()).run_id == run.run_id


async def test_a_run_that_waits_for_its_time_can_be_stopped(user: StoreUser) -> None:
    run = await user.submit(not_before=user.at(60))
    assert (await user.store.stop_run(run.run_id)).runner_id is None
    user.now_s += 61
    assert await user.store.tick() == {}
    assert await user.statuses(run) == ("stopped", "stopped")


async def test_a_run_that_is_not_claimed_in_time_fails_as_expired(user: StoreUser) -> None:
    expiring, other = await user.submit(queue_ttl_seconds=30), await user.submit()
    user.now_s += 30
    assert (await user.claimed()).run_id == other.run_id  # also before the tick
    user.changes.clear()
    assert await user.store.tick() == {}
    fields = await user.store.run(expiring.run_id)
    assert fields["status"] == "failed"
    assert fields["error"] == "expired: no runner claimed the run within 30 s"
    assert fields["completed_at"] == user.at()
    assert await user.store.session_status(expiring.session_id) == "failed"
    (event,) = await user.events(expiring.session_id)
    assert (event["event_type"], event["status"], event["error"]) == ("run_completed", "failed", fields["error"])
    assert [change.type for change in user.changes] == ["run_updated", "session_updated", "event"]


async def test_the_time_to_live_begins_when_the_run_may_be_claimed(user: StoreUser) -> None:
    run = await user.submit(not_before=user.at(60), queue_ttl_seconds=30)
    user.now_s += 89
    assert len(await user.store.tick()) == 1
    user.now_s += 1
    await user.store.tick()
    assert await user.status(run) == "failed"


async def test_a_claimed_run_does_not_expire_unless_it_is_released(user: StoreUser) -> None:
    run = await user.submit(queue_ttl_seconds=30)
    await user.claimed()
    user.now_s += 60
    await user.store.tick()
    assert await user.status(run) == "claimed"
    await user.store.release(run.run_id)
    await user.store.tick()
    assert await user.status(run) == "failed"


async def test_more_runs_expire_at_once_than_a_transaction_ends(user: StoreUser) -> None:
    for _ in range(101):
        await user.submit(queue_ttl_seconds=30)
    user.now_s += 31
    assert await user.store.tick() == {}
    assert len(await user.listed(status="failed")) == 101


async def test_a_request_with_a_known_key_starts_nothing(user: StoreUser) -> None:
    first = await user.submit(idempotency_key="k", digest=b"1")
    await user.claimed()
    repeated = await user.store.create_run(user.new_run(idempotency_key="k", digest=b"1"))
    assert repeated == msgspec.structs.replace(first, status="claimed", class_id=None)
    assert await user.store.repeated_run("k", b"1") == repeated
    assert await user.store.repeated_run("other", b"1") is None
    # The chosen session id of a repeated request exists, which is no conflict.
    again = user.new_run(idempotency_key="k", digest=b"1", session_id=first.session_id)
    assert await user.store.create_run(again) == repeated
    assert await user.listed() == [first.run_id]
    assert len((await user.store.sessions(None)).items) == 1


async def test_another_request_with_a_known_key_is_a_conflict(user: StoreUser) -> None:
    first = await user.submit(idempotency_key="k", digest=b"1")
    with pytest.raises(Conflict) as refused:
        await user.submit(idempotency_key="k", digest=b"2")
    with pytest.raises(Conflict) as asked:
        await user.store.repeated_run("k", b"2")
    for error in (refused.value, asked.value):
        assert isinstance(error.detail, dict)
        assert error.detail["error"] == "idempotency_conflict"
        assert first.run_id in error.detail["message"]
    assert await user.listed() == [first.run_id]
    assert len((await user.store.sessions(None)).items) == 1


async def test_a_key_is_free_again_when_its_run_is_deleted(user: StoreUser) -> None:
    first = await user.submit(idempotency_key="k", digest=b"1")
    await user.completed()
    await user.store.delete_session(first.session_id)
    assert await user.store.repeated_run("k", b"1") is None
    assert (await user.submit(idempotency_key="k", digest=b"2")).run_id != first.run_id


async def test_a_run_shows_the_options_that_it_has(user: StoreUser) -> None:
    plain, full = await user.submit(), await user.submit(priority=0, queue_ttl_seconds=5.5, idempotency_key="k")
    names = {"priority", "not_before", "queue_ttl_seconds", "idempotency_key"}
    assert names.isdisjoint(await user.store.run(plain.run_id))
    shown = await user.store.run(full.run_id)
    assert {name: shown[name] for name in names & set(shown)} == {
        "priority": 0,
        "queue_ttl_seconds": 5.5,
        "idempotency_key": "k",
    }


async def test_the_queue_counts_open_runs_by_profile_and_tags(user: StoreUser) -> None:
    assert await user.store.queue({}) == []
    for _ in range(4):
        await user.submit(executor_profile="p", tags=("b", "a"), hostname="one")
    await user.submit(executor_profile="p", tags=("a", "b"))
    await user.submit(executor_profile="p", tags=("a", "b"), not_before=user.at(60))
    await user.submit(tags=("c",))
    for _ in range(2):
        await user.started()
    stopped = await user.claimed()
    await user.claimed()
    await user.store.stop_run(stopped.run_id)
    any_profile = QueueEntry(
        executor_profile=None, agent_name=None, tags=["c"], pending=1, claimed=0, running=0, wanted=1
    )
    entry = QueueEntry(
        executor_profile="p", agent_name=None, tags=["a", "b"], pending=1, claimed=1, running=3, wanted=5
    )
    assert await user.store.queue({}) == [any_profile, entry]
    await user.store.report_stopped(stopped.run_id, user.reporter("one"), "SIGTERM")
    user.now_s += 60
    await user.store.tick()
    entry = QueueEntry(
        executor_profile="p", agent_name=None, tags=["a", "b"], pending=2, claimed=1, running=2, wanted=5
    )
    assert await user.store.queue({}) == [any_profile, entry]
    await user.store.close_runner("one", "gone")
    for run_id in await user.listed(status="pending"):
        await user.store.stop_run(run_id)
    assert await user.store.queue({}) == []


async def test_the_queue_names_owned_agents_and_wants_no_more_than_an_agent_may_have(user: StoreUser) -> None:
    for _ in range(3):
        await user.submit("one", limited=True, owned_agent="one")
    await user.submit("one", limited=True, owned_agent="one", tags=("a",))
    await user.submit("other", owned_agent="other")
    await user.started()
    limits = {"one": 2}
    numbers = {
        (entry.agent_name, *entry.tags): (entry.pending, entry.claimed + entry.running, entry.wanted)
        for entry in await user.store.queue(limits)
    }
    assert numbers == {("one",): (2, 1, 2), ("one", "a"): (1, 0, 0), ("other",): (1, 0, 1)}
