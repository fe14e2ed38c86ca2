"""Lists of runs and sessions: their order, pages and filters."""

from typing import Any

from fsm_runner.coordinator_server.store.interface import LIST_LIMIT, Listed, Page, RunFilter
from tests.support.stores import StoreUser


async def paged(user: StoreUser, limit: int, **chosen: Any) -> list[str]:
    """Return the ids of all pages."""
    found: list[str] = []
    page: Page | None = Page(limit=limit)
    while page is not None:
        listed = await user.store.runs(RunFilter(**chosen), page)
        assert len(listed.items) <= limit
        assert not listed.is_truncated
        found += [run["run_id"] for run in listed.items]
        page = None if listed.next is None else Page(limit=limit, after=listed.next)
    return found


async def test_runs_are_listed_oldest_first_and_in_pages_newest_first(user: StoreUser) -> None:
    assert await user.store.runs(RunFilter(), None) == Listed(items=[])
    assert await user.store.runs(RunFilter(), Page(limit=5)) == Listed(items=[])
    runs = [(await user.submit(priority=number % 3)).run_id for number in range(7)]
    assert await user.listed() == runs
    for limit in (1, 3, 6, 7, 8):
        assert await paged(user, limit) == runs[::-1]
    assert (await user.store.runs(RunFilter(), Page(limit=7))).next is None


async def test_a_page_is_not_shifted_by_new_runs(user: StoreUser) -> None:
    runs = [(await user.submit()).run_id for _ in range(4)]
    first = await user.store.runs(RunFilter(), Page(limit=2))
    await user.submit()
    rest = await user.store.runs(RunFilter(), Page(limit=2, after=first.next))
    assert [run["run_id"] for run in (*first.items, *rest.items)] == runs[::-1]


async def filled(user: StoreUser) -> list[dict[str, Any]]:
    """Make runs that differ in everything by which a list can be filtered, and return them, the oldest first."""
    for number in range(36):
        agent, tags = ("echo", "other")[number % 2], (("a",), ("a", "b"), ("c",))[number % 3]
        await user.submit(agent, tags=tags, parent=("ses_p", None)[number % 4 > 1])
        user.now_s += 1
    for number in range(24):
        run = await user.claimed(("one", "two")[number // 2 % 2])
        reporter = user.reporter(str(run.run["runner_id"]))
        if number % 5:
            await user.store.report_started(run.run_id, reporter)
        if number % 5 > 1:
            await user.store.report_completed(run.run_id, reporter, "finished")
    return (await user.store.runs(RunFilter(), None)).items


FILTERS: list[dict[str, Any]] = [
    {"status": "pending"},
    {"status": "claimed"},
    {"status": "running"},
    {"status": "completed"},
    {"status": "unknown"},
    {"runner_id": "one"},
    {"runner_id": "unknown"},
    {"agent_name": "other"},
    {"tag": "a"},
    {"tag": "unknown"},
    {"parent_session_id": "ses_p"},
    {"created_after": 10},
    {"created_after": -1},
    {"created_after": 100},
    {"status": "completed", "runner_id": "two"},
    {"status": "running", "runner_id": "one"},
    {"status": "pending", "agent_name": "echo", "tag": "c"},
    {"agent_name": "echo", "tag": "b", "created_after": 6},
    {"runner_id": "one", "agent_name": "other", "tag": "a", "parent_session_id": "ses_p", "created_after": 3},
]


def matches(run: dict[str, Any], chosen: dict[str, Any]) -> bool:
    fields = {**run, "tag": None, "created_after": None}
    plain = (fields[name] == value for name, value in chosen.items() if name not in ("tag", "created_after"))
    return (
        all(plain)
        and ("tag" not in chosen or chosen["tag"] in run["demands"].get("tags", ()))
        and ("created_after" not in chosen or run["created_at"] > chosen["created_after"])
    )


async def test_filters_choose_the_runs_that_meet_all_of_them(user: StoreUser) -> None:
    begin_s = user.now_s
    runs = await filled(user)
    for chosen in FILTERS:
        is_empty = not {"unknown", 100}.isdisjoint(chosen.values())
        if "created_after" in chosen:
            chosen = {**chosen, "created_after": user.at(begin_s + chosen["created_after"] - user.now_s)}
        expected = [run["run_id"] for run in runs if matches(run, chosen)]
        assert is_empty == (not expected), chosen
        assert await user.listed(**chosen) == expected, chosen
        for limit in (1, 5, 1_000):
            assert await paged(user, limit, **chosen) == expected[::-1], chosen


async def test_a_list_without_pages_has_the_newest_entries_and_says_so(user: StoreUser) -> None:
    for _ in range(LIST_LIMIT):
        await user.submit()
    assert not (await user.store.runs(RunFilter(), None)).is_truncated
    assert not (await user.store.sessions(None)).is_truncated
    last = await user.submit()
    runs, sessions = await user.store.runs(RunFilter(), None), await user.store.sessions(None)
    assert (len(runs.items), runs.is_truncated, runs.next) == (LIST_LIMIT, True, None)
    assert (len(sessions.items), sessions.is_truncated, sessions.next) == (LIST_LIMIT, True, None)
    assert runs.items[-1]["run_id"] == last.run_id
    assert sessions.items[0]["session_id"] == last.session_id
    assert len((await user.store.runs(RunFilter(status="pending"), None)).items) == LIST_LIMIT
    # Runners look for lost claims and stops in these lists.
    for _ in range(LIST_LIMIT + 1):
        await user.claimed()
    claimed = await user.store.runs(RunFilter(status="claimed"), None)
    assert (len(claimed.items), claimed.is_truncated) == (LIST_LIMIT + 1, False)


async def test_sessions_are_listed_newest_first(user: StoreUser) -> None:
    ids = [(await user.submit()).session_id for _ in range(5)]
    assert [session["session_id"] for session in (await user.store.sessions(None)).items] == ids[::-1]
    first = await user.store.sessions(Page(limit=2))
    second = await user.store.sessions(Page(limit=2, after=first.next))
    third = await user.store.sessions(Page(limit=2, after=second.next))
    found = [session["session_id"] for page in (first, second, third) for session in page.items]
    assert found == ids[::-1]
    assert third.next is None
    (only,) = (await user.store.sessions(None, ids[1])).items
    assert only == await user.store.session(ids[1])
    assert (await user.store.sessions(None, "ses_unknown")).items == []


async def test_the_run_that_a_runner_has_or_else_had_holds_the_session(user: StoreUser) -> None:
    first = await user.submit()
    assert await user.store.holding_run(first.session_id) is None
    await user.started()
    refused, waiting = [await user.submit(resumes=first.session_id) for _ in range(2)]
    await user.completed("two")
    for last in (first, refused):
        holding = await user.store.holding_run(first.session_id)
        assert holding == await user.store.run_row(last.run_id)
        await user.store.report_completed(first.run_id, user.reporter("one"), "idle")
    await user.claimed("three")
    holding = await user.store.holding_run(first.session_id)
    assert holding == await user.store.run_row(waiting.run_id)
