"""What runs, sessions and trees use is checked against their budgets."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fsm_runner.config.budgets import NO_BUDGET, Budget, UsageLimits, parse_budget
from fsm_runner.executors.interface import RunRefused
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import MOST_USED, TreeSession, UsageSums
from fsm_runner.protocol import wire
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.runtime.control.budgets import Budgets, RunBudget, sums_of
from fsm_runner.runtime.control.session_trees import SessionTrees

USED = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=3, cache_written_tokens=4, cost_usd=0.5, turns=2)


async def no_parent(_: str) -> str | None:
    return None


class Bench:
    """The budgets of a runner, and why each of its runs had to end."""

    def __init__(self, budget: Budget, journal: Journal) -> None:
        self.journal = journal
        self.trees = SessionTrees(journal, no_parent)
        self.budgets = Budgets(budget, self.trees)
        self.reasons: dict[str, list[str]] = {}

    def run(self, run_id: str, session_id: str = "ses_1", parent: str | None = None) -> RunBudget:
        run = wire.Run(run_id=run_id, session_id=session_id, parent_session_id=parent)
        return self.budgets.of(run, self.reasons.setdefault(run_id, []).append)

    async def begun(self, run_id: str, session_id: str = "ses_1", parent: str | None = None) -> RunBudget:
        run = self.run(run_id, session_id, parent)
        await run.begin()
        return run


@asynccontextmanager
async def bench(**budget: UsageLimits) -> AsyncIterator[Bench]:
    journal = Journal(None)
    try:
        yield Bench(Budget(**budget), journal)
    finally:
        await journal.aclose()


async def refusal(run: RunBudget) -> str:
    with pytest.raises(RunRefused) as refused:
        await run.begin()
    return str(refused.value)


async def test_without_a_budget_nothing_is_recorded() -> None:
    async with bench() as b:
        run = await b.begun("run_1")
        run.note(USED)
        run.close()
        assert await b.journal.tree_session("ses_1") is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (UsageLimits(max_tokens=126), "the run has used 127 of 126 tokens (max_tokens)"),
        (UsageLimits(max_cost_usd=0.25), "the run has used 0.5 of 0.25 USD (max_cost_usd)"),
        (UsageLimits(max_turns=1), "the run has used 2 of 1 turns (max_turns)"),
    ],
    ids=["max_tokens", "max_cost_usd", "max_turns"],
)
async def test_a_run_ends_when_it_exceeds_its_budget(limits: UsageLimits, reason: str) -> None:
    async with bench(run=limits) as b:
        run, other = await b.begun("run_1"), await b.begun("run_2")
        run.note(USED)
        other.note(Usage(input_tokens=1, cost_usd=0.01, turns=1))
        assert b.reasons == {"run_1": [f"budget exceeded: {reason}"], "run_2": []}
        assert await b.journal.tree_session("ses_1") is None, "sums without a use"


@pytest.mark.parametrize(
    "limits", [UsageLimits(max_tokens=127), UsageLimits(max_cost_usd=0.5), UsageLimits(max_turns=2)], ids=str
)
async def test_a_budget_may_be_used_up_but_then_no_execution_begins(limits: UsageLimits) -> None:
    async with bench(run=limits, session=limits, tree=limits) as b:
        run = await b.begun("run_1")
        run.note(USED)
        assert b.reasons["run_1"] == []
        assert (await refusal(run)).startswith("budget used up: the run has used ")
        run.close()
        assert (await refusal(b.run("run_2"))).startswith("budget used up: session ses_1 has used ")
        child = b.run("run_3", "ses_2", "ses_1")
        assert (await refusal(child)).startswith("budget used up: the tree of session ses_1 has used ")
        await b.begun("run_4", "ses_4")


async def test_reports_replace_each_other_and_never_lower_a_sum() -> None:
    async with bench(session=UsageLimits(max_tokens=1_000)) as b:
        run = await b.begun("run_1")
        for tokens in (100, 400, 400, 50, -(10**30), 300):
            run.note(Usage(input_tokens=tokens))
        assert await b.journal.tree_session("ses_1") == TreeSession(
            session_id="ses_1", root_session_id="ses_1", depth=0, used=UsageSums(tokens=400)
        )
        second = await b.begun("run_2")
        second.note(Usage(input_tokens=601))
        assert b.reasons == {
            "run_1": [],
            "run_2": ["budget exceeded: session ses_1 has used 1,001 of 1,000 tokens (max_tokens)"],
        }


async def test_all_runs_of_a_tree_end_when_the_tree_exceeds_its_budget() -> None:
    async with bench(tree=UsageLimits(max_turns=10), session=UsageLimits(max_turns=9)) as b:
        root = await b.begun("run_1", "ses_1")
        child = await b.begun("run_2", "ses_2", "ses_1")
        grandchild = await b.begun("run_3", "ses_3", "ses_2")
        other = await b.begun("run_4", "ses_4")
        ended = await b.begun("run_5", "ses_5", "ses_1")
        ended.close()
        for run in (root, child, other):
            run.note(Usage(turns=5))
        assert not any(b.reasons.values())
        grandchild.note(Usage(turns=1))
        reason = "budget exceeded: the tree of session ses_1 has used 11 of 10 turns (max_turns)"
        assert b.reasons == {
            "run_1": [reason], "run_2": [reason], "run_3": [reason], "run_4": [], "run_5": []
        }  # fmt: skip


async def test_the_usage_of_an_earlier_process_is_not_added_again() -> None:
    async with bench(session=UsageLimits(max_tokens=1_000)) as b:
        first = await b.begun("run_1")
        first.note(Usage(input_tokens=600))
        successor = b.run("run_1")
        successor.restore(Usage(input_tokens=600))
        first.close()
        await successor.begin()
        successor.note(Usage(input_tokens=900))
        assert b.reasons["run_1"] == []
        successor.note(Usage(input_tokens=1_001))
        assert b.reasons["run_1"] == ["budget exceeded: session ses_1 has used 1,001 of 1,000 tokens (max_tokens)"]


async def test_nothing_of_an_ended_run_stays_in_memory() -> None:
    async with bench(tree=UsageLimits(max_turns=10)) as b:
        runs = [await b.begun(f"run_{number}", f"ses_{number % 5}", None) for number in range(50)]
        assert len(b.trees) == 5
        for run in runs:
            run.note(Usage(turns=1))
            run.close()
            run.close()
        assert len(b.trees) == 0
        assert (await b.journal.tree_totals("ses_0")).used == UsageSums(turns=10)


async def test_runs_that_begin_together_share_the_sums() -> None:
    async with bench(session=UsageLimits(max_turns=10)) as b:
        runs = await asyncio.gather(*(b.begun(f"run_{number}") for number in range(20)))
        for run in runs[:11]:
            run.note(Usage(turns=1))
        assert [run_id for run_id, reasons in b.reasons.items() if reasons] == ["run_10"]


async def test_a_cancelled_begin_leaves_nothing() -> None:
    async with bench(tree=UsageLimits(max_turns=10)) as b:
        run = b.run("run_1")
        for steps in range(8):
            beginning = asyncio.ensure_future(run.begin())
            for _ in range(steps):
                await asyncio.sleep(0)
            beginning.cancel()
            await asyncio.wait([beginning])
            run.close()
            assert len(b.trees) == 0


@pytest.mark.parametrize(
    ("usage", "sums"),
    [
        (Usage(), UsageSums()),
        (Usage(input_tokens=-5, output_tokens=7, turns=-1, cost_usd=-0.1), UsageSums(tokens=7)),
        (Usage(cost_usd=math.nan, turns=10**40), UsageSums(turns=MOST_USED)),
        (Usage(cost_usd=math.inf, input_tokens=MOST_USED, output_tokens=1), UsageSums(1e12, MOST_USED)),
    ],
    ids=str,
)
def test_whatever_an_executor_reports_is_a_sum(usage: Usage, sums: UsageSums) -> None:
    assert sums_of(usage) == sums


def test_sums_end_at_their_maximum() -> None:
    most = UsageSums(float(MOST_USED), MOST_USED, MOST_USED)
    assert most + most == most


def test_a_flag_takes_precedence_over_the_profile_for_each_maximum() -> None:
    profile = Budget(run=UsageLimits(max_turns=5, max_cost_usd=1.0), tree=UsageLimits(max_tokens=9))
    assert parse_budget("run.max_turns=7").with_defaults(profile) == Budget(
        run=UsageLimits(max_turns=7, max_cost_usd=1.0), tree=UsageLimits(max_tokens=9)
    )
    assert NO_BUDGET.with_defaults(profile) == profile


async def test_a_workflow_counts_all_runs_below_it_until_they_end() -> None:
    async with bench() as b:
        parent, child = b.run("run_1"), b.run("run_2", "ses_2", "ses_1")
        child.note(Usage(input_tokens=10))  # in an earlier process of the runner, or before the workflow began
        parent.begin_workflow(UsageLimits(max_tokens=100), [Usage(input_tokens=5)])
        grandchild, other = b.run("run_3", "ses_3", "ses_2"), b.run("run_4", "ses_4", "ses_9")
        grandchild.note(Usage(input_tokens=20))
        other.note(Usage(input_tokens=1_000))
        assert parent.take_children() == Usage(input_tokens=30)
        assert parent.take_children() is None
        resumed = b.budgets.of(
            wire.Run(run_id="run_5", session_id="ses_2", type="resume_session"),
            b.reasons.setdefault("run_5", []).append,
        )
        resumed.close()
        child.note(Usage(input_tokens=75))
        assert b.reasons["run_1"] == []
        parent.note(Usage(input_tokens=1))
        assert b.reasons["run_1"] == ["budget exceeded: the workflow has used 101 of 100 tokens (max_tokens)"]
        with pytest.raises(RunRefused, match="budget used up: the workflow has used 101 of 100 tokens"):
            await parent.begin()
        parent.close()
        child.note(Usage(input_tokens=1_000))
        assert len(b.reasons["run_1"]) == 1
