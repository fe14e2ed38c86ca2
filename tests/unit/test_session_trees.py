"""Where sessions are in their trees, and how many of them a session may start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from fsm_runner.config.budgets import ChildLimits
from fsm_runner.coordinator_client.errors import CoordinatorError, Unreachable
from fsm_runner.executors.children import ChildRefused
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import TreeSession, UsageSums
from fsm_runner.runtime.control import session_trees
from fsm_runner.runtime.control.children import Children
from fsm_runner.runtime.control.session_trees import ANCESTORS_LIMIT, SessionTrees


class Bench:
    """Trees whose sessions have these parents at the coordinator."""

    def __init__(self, journal: Journal, parents: dict[str, str], limits: ChildLimits) -> None:
        self.journal = journal
        self.parents = parents
        self.asked: list[str] = []
        self.fault: CoordinatorError | None = None
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.trees = SessionTrees(journal, self.parent_of)
        self.children = Children(limits, self.trees)

    async def parent_of(self, session_id: str) -> str | None:
        self.asked.append(session_id)
        self.was_asked.set()
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        return self.parents.get(session_id)

    async def start(self, parent: str, child: str) -> None:
        async with self.children(parent) as started:
            await asyncio.sleep(0)
            started(child)

    async def refusal(self, parent: str) -> str:
        with pytest.raises(ChildRefused) as refused:
            await self.start(parent, "never")
        return str(refused.value)

    async def place(self, session_id: str, *, may_guess: bool = False) -> tuple[str, int]:
        session = await self.trees.hold(session_id, may_guess=may_guess)
        self.trees.release(session)
        return session.tree.root_session_id, session.record.depth


@asynccontextmanager
async def bench(
    parents: dict[str, str] | None = None, *, max_depth: int = 5, max_count: int = 100
) -> AsyncIterator[Bench]:
    journal = Journal(None)
    try:
        yield Bench(journal, parents or {}, ChildLimits(max_depth=max_depth, max_count=max_count))
    finally:
        await journal.aclose()


async def test_the_place_of_a_session_is_looked_up_once() -> None:
    async with bench({"c": "b", "b": "a"}) as b:
        assert [await b.place("c"), await b.place("c")] == [("a", 2), ("a", 2)]
        assert b.asked == ["c", "b", "a"]
        assert len(b.trees) == 0


async def test_a_look_up_ends_at_the_first_session_with_a_record() -> None:
    async with bench({"c": "b", "b": "a"}) as b:
        await b.place("b")
        b.asked.clear()
        assert await b.place("c") == ("a", 2)
        assert b.asked == ["c"]


async def test_the_sessions_above_are_recorded_and_counted_too() -> None:
    """Otherwise they could get into another tree when they are resumed, and the sums of this one would be divided."""
    async with bench({"c": "b", "b": "a"}, max_count=3) as b:
        await b.place("c")
        b.parents = {"a": "z", "b": "y"}
        assert [await b.place("a"), await b.place("b")] == [("a", 0), ("a", 1)]
        await b.start("a", "d")
        assert "3 of at most 3 sessions" in await b.refusal("a")


async def test_a_session_that_gets_into_another_tree_during_its_look_up_is_found_there() -> None:
    async with bench() as b:
        b.may_answer.clear()
        holding = asyncio.ensure_future(b.trees.hold("b"))
        await b.was_asked.wait()
        b.journal.record_tree_session(TreeSession(session_id="b", root_session_id="a", depth=1))
        b.may_answer.set()
        session = await holding
        assert (session.tree.root_session_id, session.record.depth) == ("a", 1)
        b.trees.release(session)
        assert len(b.trees) == 0


async def test_a_session_that_is_held_meanwhile_is_held_twice() -> None:
    async with bench() as b:
        b.may_answer.clear()
        holding = asyncio.ensure_future(b.trees.hold("b"))
        await b.was_asked.wait()
        b.journal.record_tree_session(TreeSession(session_id="b", root_session_id="a", depth=1))
        first = await b.trees.hold("b")
        b.may_answer.set()
        assert await holding is first
        b.trees.release(first)
        b.trees.add_usage(first, UsageSums(turns=1))
        assert len(b.trees) == 1
        b.trees.release(first)
        assert len(b.trees) == 0


async def test_an_empty_parent_is_none() -> None:
    async with bench({"a": ""}) as b:
        assert await b.place("a") == ("a", 0)
        assert b.asked == ["a"]


async def test_the_place_of_a_started_child_needs_no_look_up() -> None:
    async with bench() as b:
        await b.start("a", "b")
        await b.start("b", "c")
        assert await b.place("c") == ("a", 2)
        assert b.asked == ["a"]


async def test_a_session_that_its_descendant_has_resumed_stays_in_its_tree() -> None:
    async with bench() as b:
        await b.start("a", "b")
        b.parents["a"] = "b"
        assert await b.place("a") == ("a", 0)
        assert await b.place("b") == ("a", 1)


async def test_sessions_that_have_resumed_each_other_are_one_tree() -> None:
    circle = {"a": "b", "b": "c", "c": "a"}
    async with bench(circle) as b:
        assert {(await b.place(each))[0] for each in circle} == {"a"}
    async with bench(circle | {"d": "c"}) as b:
        assert await b.place("d") == ("a", 2)
    async with bench({"a": "a"}) as b:
        assert await b.place("a") == ("a", 0)


async def test_a_record_of_a_descendant_names_its_session_as_the_root() -> None:
    """The record of the session itself may be missing: only its child had a budget or a child."""
    async with bench({"b": "a"}) as b:
        await b.place("b")
        b.parents = {"a": "b"}
        assert await b.place("a") == ("a", 0)


async def test_an_endless_line_of_ancestors_is_cut() -> None:
    async with bench({str(number): str(number + 1) for number in range(10 * ANCESTORS_LIMIT)}) as b:
        assert await b.place("0") == (str(ANCESTORS_LIMIT), ANCESTORS_LIMIT)
        assert len(b.asked) == ANCESTORS_LIMIT


async def test_without_a_coordinator_a_run_begins_nevertheless_but_no_child_starts() -> None:
    async with bench({"c": "b", "b": "a"}) as b:
        b.fault = Unreachable("no connection")
        with pytest.raises(Unreachable):
            await b.start("b", "c")
        assert len(b.trees) == 0
        assert await b.place("c", may_guess=True) == ("c", 0)


async def test_a_coordinator_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_trees, "LOOK_UP_LIMIT_S", 0.01)

    async def never(_: str) -> str | None:
        await asyncio.Event().wait()
        return None

    async with bench() as b:
        b.trees = SessionTrees(b.journal, never)
        with pytest.raises(Unreachable, match="was not found within"):
            await b.place("a")
        assert await b.place("a", may_guess=True) == ("a", 0)


async def test_sessions_are_nested_as_deep_as_permitted() -> None:
    async with bench(max_depth=2) as b:
        await b.start("a", "b")
        await b.start("b", "c")
        assert await b.refusal("c") == (
            "This session may not start other sessions: 2 sessions are above it, and sessions may be nested 2 deep "
            "(children.max_depth). Do the work in this session instead."
        )
        await b.start("b", "d")


async def test_a_depth_of_0_permits_no_children() -> None:
    async with bench(max_depth=0) as b:
        assert "0 sessions are above it" in await b.refusal("a")


async def test_the_depth_counts_sessions_of_other_runners() -> None:
    async with bench({"c": "b", "b": "a"}, max_depth=2) as b:
        assert "children.max_depth" in await b.refusal("c")


async def test_a_tree_has_as_many_sessions_as_permitted() -> None:
    async with bench(max_count=3) as b:
        await b.start("a", "b")
        await b.start("b", "c")
        await b.start("a", "d")
        for session_id in "abcd":
            assert await b.refusal(session_id) == (
                "This session may not start other sessions: 3 of at most 3 sessions have been started below session a "
                "(children.max_count). Resume one of them, or do the work in this session instead."
            )
        await b.start("e", "f")


async def test_parallel_starts_together_stay_within_the_count() -> None:
    async with bench(max_count=7) as b:
        results = await asyncio.gather(
            *(b.start("a", f"child_{number}") for number in range(30)), return_exceptions=True
        )
        assert results.count(None) == 7
        assert sum(isinstance(result, ChildRefused) for result in results) == 23
        assert (await b.journal.tree_totals("a")).below_root == 7
        assert len(b.trees) == 0


async def test_a_start_that_fails_gives_its_place_back() -> None:
    async with bench(max_count=1) as b:
        held = await b.trees.hold("a")  # otherwise the tree would be loaded anew for each start
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with b.children("a"):
                    assert "1 of at most 1" in await b.refusal("a")
                    raise ZeroDivisionError
        async with b.children("a"):
            pass
        await b.start("a", "b")
        await b.refusal("a")
        b.trees.release(held)


async def test_a_child_whose_run_begins_before_the_response_to_its_start_counts_once() -> None:
    async with bench(max_count=2) as b, AsyncExitStack() as stack:
        started = await stack.enter_async_context(b.children("a"))
        child = await b.trees.hold("b", parent="a")
        b.trees.add_usage(child, UsageSums(turns=3))
        async with b.children("a") as second:
            assert "2 of at most 2" in await b.refusal("a")
            started("b")
            started("b")
            assert "2 of at most 2" in await b.refusal("a")
            b.trees.release(child)
            second("c")
        assert (await b.journal.tree_totals("a")).below_root == 2
        assert await b.journal.tree_session("b") == TreeSession(
            session_id="b", root_session_id="a", depth=1, used=UsageSums(turns=3)
        )


async def test_a_child_that_appears_during_a_start_that_fails_counts() -> None:
    """Another runner may have started it."""
    async with bench(max_count=2) as b:
        async with b.children("a"):
            b.trees.release(await b.trees.hold("b", parent="a"))
        await b.start("a", "c")
        await b.refusal("a")


async def test_the_count_is_the_same_after_a_restart() -> None:
    async with bench(max_count=2) as b:
        await b.start("a", "b")
        again = Bench(b.journal, {}, ChildLimits(max_count=2))
        await again.start("b", "c")
        await again.refusal("a")
        assert again.asked == []
