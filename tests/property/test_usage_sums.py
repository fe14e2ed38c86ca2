"""The sums of sessions and trees are those of the reports, whatever runs begin, report, end and are resumed."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fsm_runner.config.budgets import Budget, UsageLimits
from fsm_runner.executors.interface import RunRefused
from fsm_runner.journal.journal import Journal
from fsm_runner.protocol import wire
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.runtime.control.budgets import Budgets, RunBudget
from fsm_runner.runtime.control.session_trees import SessionTrees

SESSIONS = 6
RUNS = 8
BUDGET = Budget(
    run=UsageLimits(max_tokens=60), session=UsageLimits(max_tokens=100, max_turns=50), tree=UsageLimits(max_tokens=250)
)


class Family(NamedTuple):
    """Which session started which, and the session of each run."""

    parents: tuple[int | None, ...]
    """By session. A parent has a lower number."""
    session_of: tuple[int, ...]
    """By run."""

    def root(self, session: int) -> int:
        parent = self.parents[session]
        return session if parent is None else self.root(parent)

    def tree_of(self, run: int) -> int:
        return self.root(self.session_of[run])


class Report(NamedTuple):
    run: int
    tokens: int
    """Since the report before, negative for one that is to have no effect."""
    turns: int


def families() -> st.SearchStrategy[Family]:
    parents = st.tuples(
        *(st.none() if number == 0 else st.none() | st.integers(0, number - 1) for number in range(SESSIONS))
    )
    session_of = st.tuples(*(st.integers(0, SESSIONS - 1) for _ in range(RUNS)))
    return st.builds(Family, parents, session_of)


runs = st.integers(0, RUNS - 1)
Act = Report | tuple[str, int]
acts: st.SearchStrategy[list[Act]] = st.lists(
    st.one_of(
        st.builds(Report, runs, st.integers(-30, 40), st.integers(0, 10)),
        st.builds(Report, runs, st.integers(-30, 40), st.integers(0, 10)),
        st.tuples(st.sampled_from(["begin", "end", "restart", "flush"]), runs),
    ),
    min_size=10,
    max_size=80,
)


class Sums(NamedTuple):
    tokens: int
    turns: int


class Model:
    """Plain sums."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.by_run: defaultdict[int, Sums] = defaultdict(lambda: Sums(0, 0))

    def report(self, report: Report) -> Usage:
        before = self.by_run[report.run]
        if report.tokens < 0:
            return Usage(input_tokens=before.tokens + report.tokens, turns=-report.turns)
        total = Sums(before.tokens + report.tokens, before.turns + report.turns)
        self.by_run[report.run] = total
        return Usage(
            input_tokens=total.tokens // 2, cache_read_tokens=total.tokens - total.tokens // 2, turns=total.turns
        )

    def usage_of(self, run: int) -> Usage:
        used = self.by_run[run]
        return Usage(output_tokens=used.tokens, turns=used.turns)

    def of_session(self, session: int) -> Sums:
        return self._sum(run for run in range(RUNS) if self.family.session_of[run] == session)

    def of_tree(self, root: int) -> Sums:
        return self._sum(run for run in range(RUNS) if self.family.tree_of(run) == root)

    def _sum(self, numbers: Iterable[int]) -> Sums:
        used = [self.by_run[run] for run in numbers]
        return Sums(sum(each.tokens for each in used), sum(each.turns for each in used))

    def spent(self, run: int) -> list[tuple[Sums, UsageLimits]]:
        session = self.family.session_of[run]
        return [
            (self.by_run[run], BUDGET.run),
            (self.of_session(session), BUDGET.session),
            (self.of_tree(self.family.root(session)), BUDGET.tree),
        ]


def is_over(used: Sums, limits: UsageLimits, least: int) -> bool:
    """Return whether a maximum is exceeded by at least this much."""
    pairs = ((used.tokens, limits.max_tokens), (used.turns, limits.max_turns))
    return any(maximum is not None and amount - maximum >= least for amount, maximum in pairs)


class Runner:
    """A runner with budgets, which can be restarted."""

    def __init__(self, folder: Path, family: Family, model: Model) -> None:
        self._folder = folder
        self._family = family
        self._model = model
        self.reasons: defaultdict[int, list[str]] = defaultdict(list)
        self.active: dict[int, RunBudget] = {}
        self.open: set[int] = set()
        """Runs that have begun and not ended, also in earlier processes."""
        self._start()

    def _start(self) -> None:
        self.journal = Journal(self._folder)
        self.trees = SessionTrees(self.journal, self._parent_of)
        self._budgets = Budgets(BUDGET, self.trees)

    async def _parent_of(self, session_id: str) -> str | None:
        return name_of(self._family.parents[int(session_id.removeprefix("ses_"))])

    async def restart(self) -> None:
        await self.journal.aclose()
        self.active.clear()
        self._start()
        for run in sorted(self.open):
            await self.begin(run)

    async def begin(self, number: int) -> None:
        if number in self.active:
            return
        session = self._family.session_of[number]
        run = wire.Run(
            run_id=f"run_{number}",
            session_id=f"ses_{session}",
            parent_session_id=name_of(self._family.parents[session]),
        )
        budget = self._budgets.of(run, self.reasons[number].append)
        budget.restore(self._model.usage_of(number))
        try:
            await budget.begin()
        except RunRefused:
            assert any(is_over(used, limits, 0) for used, limits in self._model.spent(number))
            event("refused")
            if number not in self.open:
                budget.close()
                return
        else:
            assert not any(is_over(used, limits, 0) for used, limits in self._model.spent(number))
        self.active[number] = budget
        self.open.add(number)

    def report(self, report: Report) -> None:
        if report.run not in self.active:
            return
        before = self._model.by_run[report.run]
        for reasons in self.reasons.values():
            reasons.clear()
        self.active[report.run].note(self._model.report(report))
        if self._model.by_run[report.run] != before:
            self._check_reasons(report.run)

    def _check_reasons(self, reporting: int) -> None:
        for run in self.active:
            of_run, of_session, of_tree = (is_over(used, limits, 1) for used, limits in self._model.spent(run))
            is_own, is_same_tree = run == reporting, self._family.tree_of(run) == self._family.tree_of(reporting)
            expected = (is_own and (of_run or of_session)) or (is_same_tree and of_tree)
            assert bool(self.reasons[run]) == expected, (run, reporting, self.reasons)
            event(f"exceeded: {expected}")

    def end(self, run: int) -> None:
        if (budget := self.active.pop(run, None)) is not None:
            budget.close()
        self.open.discard(run)

    async def check_sums(self) -> None:
        for session in range(SESSIONS):
            record = await self.journal.tree_session(f"ses_{session}")
            used = Sums(0, 0) if record is None else Sums(record.used.tokens, record.used.turns)
            assert used == self._model.of_session(session)
            if self._family.parents[session] is None:
                totals = await self.journal.tree_totals(f"ses_{session}")
                assert Sums(totals.used.tokens, totals.used.turns) == self._model.of_tree(session)
        assert len(self.trees) == len({self._family.tree_of(run) for run in self.active})


def name_of(session: int | None) -> str | None:
    return None if session is None else f"ses_{session}"


async def carry_out(folder: Path, family: Family, done: list[Act]) -> None:
    model = Model(family)
    runner = Runner(folder, family, model)
    try:
        for act in done:
            match act:
                case Report():
                    await runner.begin(act.run)
                    runner.report(act)
                case ("begin", run):
                    await runner.begin(run)
                case ("end", run):
                    runner.end(run)
                case ("restart", _):
                    await runner.restart()
                case ("flush", _):
                    await runner.journal.flush()
        await runner.check_sums()
        await runner.restart()
        await runner.check_sums()
    finally:
        await runner.journal.aclose()


@given(families(), acts)
@settings(max_examples=60)
def test_sums_are_those_of_the_reports(family: Family, done: list[Act]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(carry_out(Path(folder), family, done))
