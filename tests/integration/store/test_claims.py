"""A claim gets the first run of the queue that its runner may have, and no run is claimed twice."""

import asyncio

import pytest

from fsm_runner.coordinator_server.errors import Conflict, NotFound
from tests.support.stores import StoreUser


async def test_runs_are_claimed_in_the_order_of_their_submission(user: StoreUser) -> None:
    submitted = [await user.submit(tags=(f"t{number % 3}",)) for number in range(9)]
    claimed = [await user.claimed("one" if number % 2 else "two") for number in range(9)]
    assert [run.run_id for run in claimed] == [run.run_id for run in submitted]
    assert await user.claim() is None


async def test_only_runs_of_the_given_classes_are_claimed(user: StoreUser) -> None:
    first, second = await user.submit(tags=("a",)), await user.submit(tags=("b",))
    assert first.class_id != second.class_id is not None
    assert (await user.claimed(class_ids=[second.class_id])).run_id == second.run_id
    assert await user.claim(class_ids=[second.class_id]) is None
    assert await user.claim(class_ids=[]) is None
    assert await user.claim(class_ids=[10_000]) is None
    assert await user.status(first) == "pending"


async def test_equal_demands_share_a_class(user: StoreUser) -> None:
    first = await user.submit(tags=("a",), executor_profile="p")
    assert (await user.submit(tags=("a",), executor_profile="p")).class_id == first.class_id
    others = [await user.submit(tags=("a",)), await user.submit(tags=("a",), executor_profile="p", limited=True)]
    assert len({first.class_id, *(run.class_id for run in others)}) == 3


async def test_a_claim_returns_the_run_as_lists_show_it(user: StoreUser) -> None:
    run = await user.submit(executor_profile="p", tags=("a",), runner_id="hidden", priority=2)
    claimed = await user.claimed("one")
    assert claimed.run == await user.store.run(run.run_id)
    shown = {"status": "claimed", "runner_id": "one", "attempt": 1, "claimed_at": user.at(), "priority": 2}
    assert claimed.run.items() >= shown.items()
    demands = claimed.run["demands"]
    assert {**demands, "tags": list(demands["tags"])} == {"executor_profile": "p", "tags": ["a"]}
    assert claimed.class_id == run.class_id
    assert [change.type for change in user.changes] == ["session_created", "run_created", "run_updated"]
    assert user.changes[-1].data == {"run_id": run.run_id, "session_id": run.session_id, "status": "claimed"}


async def test_a_step_of_priority_counts_as_a_minute_of_waiting(user: StoreUser) -> None:
    old = await user.submit(tags=("a",))
    user.now_s += 59
    high = await user.submit(priority=1, tags=("b",))
    user.now_s += 2
    late = await user.submit(priority=1, tags=("a",))
    low = await user.submit(priority=-10, tags=("b",))
    user.now_s += 601
    later = await user.submit(tags=("c",))
    order = [(await user.claimed()).run_id for _ in range(5)]
    assert order == [run.run_id for run in (high, old, late, low, later)]


async def test_has_more_says_whether_the_class_has_another_run(user: StoreUser) -> None:
    await user.submit()
    await user.submit()
    await user.submit(tags=("other",))
    assert [(await user.claimed()).has_more for _ in range(3)] == [True, False, False]


async def test_an_agent_at_its_limit_has_no_more(user: StoreUser) -> None:
    for _ in range(3):
        await user.submit(limited=True)
    assert [(await user.claimed(max_running={"echo": 2})).has_more for _ in range(2)] == [True, False]


async def test_a_released_run_is_claimed_again_at_its_old_place(user: StoreUser) -> None:
    first, second = await user.submit(), await user.submit()
    assert (await user.claimed("one")).run_id == first.run_id
    await user.store.release(first.run_id)
    fields = await user.store.run(first.run_id)
    assert (fields["status"], fields["runner_id"], fields["claimed_at"], fields["attempt"]) == (
        "pending",
        None,
        None,
        1,
    )
    assert (await user.claimed("two")).run_id == first.run_id
    assert (await user.claimed("two")).run_id == second.run_id


async def test_only_a_claim_can_be_released(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    await user.store.release(run.run_id)
    assert await user.status(run) == "running"


async def test_a_fenced_claim_is_untold_until_its_response_is_written(user: StoreUser) -> None:
    first, second = await user.submit(), await user.submit()
    await user.claimed("one")
    await user.claimed("one")
    untold = await user.store.untold_claim("one")
    assert untold is not None
    assert (untold.run_id, untold.class_id) == (first.run_id, first.class_id)
    assert untold.run == await user.store.run(first.run_id)
    assert await user.store.untold_claim("two") is None
    await user.store.note_told(first.run_id)
    untold = await user.store.untold_claim("one")
    assert untold is not None
    assert untold.run_id == second.run_id
    await user.store.report_started(second.run_id, user.reporter("one"))
    assert await user.store.untold_claim("one") is None


async def test_a_claim_without_fencing_is_never_handed_out_again(user: StoreUser) -> None:
    await user.submit()
    await user.claimed("one", fenced=False)
    assert await user.store.untold_claim("one") is None


async def test_a_released_claim_is_untold_again_after_the_next_claim(user: StoreUser) -> None:
    run = await user.submit()
    await user.claimed("one")
    await user.store.note_told(run.run_id)
    await user.store.release(run.run_id)
    assert await user.store.untold_claim("one") is None
    await user.claimed("one")
    assert await user.store.untold_claim("one") is not None


async def test_no_more_runs_of_an_agent_are_held_than_its_limit(user: StoreUser) -> None:
    limit = {"heavy": 2, "other": 1}
    heavy = [await user.submit("heavy", limited=True, tags=(f"t{number}",)) for number in range(4)]
    light = await user.submit("light")
    assert [(await user.claimed(max_running=limit)).run_id for _ in range(2)] == [run.run_id for run in heavy[:2]]
    assert (await user.claimed(max_running=limit)).run_id == light.run_id
    assert await user.claim(max_running=limit) is None
    await user.store.report_started(heavy[0].run_id, user.reporter("one"))
    await user.store.stop_run(heavy[0].run_id)
    assert await user.claim(max_running=limit) is None  # one that is being stopped counts
    ended = await user.store.report_stopped(heavy[0].run_id, user.reporter("one"), "SIGTERM")
    assert ended.limited_agent == "heavy"
    assert (await user.claimed(max_running=limit)).run_id == heavy[2].run_id
    assert (await user.claimed(max_running={})).run_id == heavy[3].run_id  # the agent has no limit any more


async def test_a_new_session_is_pending(user: StoreUser) -> None:
    created = await user.submit(session_id="ses_chosen", parent="ses_parent")
    assert created.status == "pending"
    session = await user.store.session("ses_chosen")
    assert session == {
        "session_id": "ses_chosen",
        "status": "pending",
        "project_dir": "/work",
        "agent_name": "echo",
        "executor_session_id": None,
        "hostname": None,
        "executor_profile": None,
        "parent_session_id": "ses_parent",
        "execution_mode": "sync",
        "created_at": user.at(),
        "last_resumed_at": None,
    }
    with pytest.raises(Conflict, match="already exists"):
        await user.submit(session_id="ses_chosen")
    assert await user.listed() == [created.run_id]


async def test_a_resume_adds_a_run_to_its_session(user: StoreUser) -> None:
    first = await user.submit()
    await user.completed(session_status="idle")
    resume = await user.submit(resumes=first.session_id, parent="ses_parent")
    assert resume.session_id == first.session_id
    assert (await user.store.session(first.session_id))["parent_session_id"] == "ses_parent"
    with pytest.raises(NotFound, match="Session not found"):
        await user.submit(resumes="ses_unknown")
    assert await user.listed() == [first.run_id, resume.run_id]


async def test_concurrent_claims_get_different_runs(user: StoreUser) -> None:
    submitted = await asyncio.gather(*(user.submit(tags=(f"t{number % 3}",)) for number in range(20)))
    for runner_id in ("one", "two", "three"):
        await user.register(runner_id)
    claims = await asyncio.gather(*(user.claim(("one", "two", "three")[number % 3]) for number in range(30)))
    claimed = [claim.run_id for claim in claims if claim is not None]
    assert sorted(claimed) == sorted(run.run_id for run in submitted)


async def test_a_limit_holds_for_concurrent_claims(user: StoreUser) -> None:
    for _ in range(10):
        await user.submit(limited=True)
    await user.register("one")
    claims = await asyncio.gather(*(user.claim(max_running={"echo": 3}) for _ in range(10)))
    assert sum(claim is not None for claim in claims) == 3
