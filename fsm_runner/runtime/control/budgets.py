"""Checks what runs use against their budgets, as their executors report it."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from msgspec import UNSET

from fsm_runner.config.budgets import NO_BUDGET, NO_USAGE_LIMITS, Budget, UsageLimits
from fsm_runner.executors.interface import RunRefused
from fsm_runner.journal.records import MOST_USED, NOTHING_USED, UsageSums
from fsm_runner.protocol import wire
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.runtime.control.session_trees import ANCESTORS_LIMIT, HeldSession, SessionTrees
from fsm_runner.util.text import usd_text

Number = TypeVar("Number", int, float)
OnExceeded = Callable[[str], None]
"""Receives the reason why a run must end."""


class Budgets:
    """The budgets of one runner."""

    def __init__(self, budget: Budget, trees: SessionTrees | None) -> None:
        """`trees`: None if there are no budgets of sessions and trees."""
        self._budget = budget
        self._trees = None if budget.session == budget.tree == NO_USAGE_LIMITS else trees
        self._runs: dict[str, RunBudget] = {}
        """The runs that this runner holds, by id."""
        self._parents: dict[str, str] = {}
        """The parents of their sessions."""
        self._workflows: dict[str, RunBudget] = {}
        """The runs whose workflow has a budget, by session."""

    def of(self, run: wire.Run, on_exceeded: OnExceeded) -> "RunBudget":
        if run.type == "start_session" and run.parent_session_id:
            self._parents[run.session_id] = run.parent_session_id
        budget = self._runs[run.run_id] = RunBudget(run, self._budget, self._trees, on_exceeded, self)
        return budget

    def begin_workflow(self, budget: "RunBudget") -> None:
        """Count what runs below this one use, also what those have used so far that an earlier process has begun."""
        self._workflows.setdefault(budget.run.session_id, budget)
        for run in self._runs.values():
            if run.total is not None and budget in self._workflows_above(run.run):
                budget.note_child(run.run.run_id, run.total)

    def note(self, run: wire.Run, total: Usage) -> None:
        """Add what a run has used to the workflows above it."""
        for workflow in self._workflows_above(run):
            workflow.note_child(run.run_id, total)

    def end(self, budget: "RunBudget") -> None:
        """May be repeated."""
        run = budget.run
        self._runs.pop(run.run_id, None)
        if run.type == "start_session":
            self._parents.pop(run.session_id, None)
        if self._workflows.get(run.session_id) is budget:
            del self._workflows[run.session_id]

    def _workflows_above(self, run: wire.Run) -> "Iterator[RunBudget]":
        session_id: str | None = run.session_id
        for _ in range(ANCESTORS_LIMIT if self._workflows else 0):
            session_id = self._parents.get(session_id or "")
            if session_id is None:
                return
            if (workflow := self._workflows.get(session_id)) is not None:
                yield workflow


NO_BUDGETS = Budgets(NO_BUDGET, None)


class RunBudget:
    """The budgets of one run. `close` at its end."""

    def __init__(
        self,
        run: wire.Run,
        budget: Budget,
        trees: SessionTrees | None,
        on_exceeded: OnExceeded,
        all_budgets: Budgets,
    ) -> None:
        """`trees`: None if only the run itself has a budget."""
        self.run = run
        self.total: Usage | None = None
        """What all executions of the run have used, as it was reported last."""
        self._budget = budget
        self._trees = trees
        self._on_exceeded = on_exceeded
        self._all_budgets = all_budgets
        self._used = NOTHING_USED
        """What the run has used. The sums of its session and tree contain it."""
        self._held: HeldSession | None = None
        self._of_workflow = NO_USAGE_LIMITS
        self._used_below = NOTHING_USED
        """What the children of the run's workflow have used."""
        self._children: dict[str, Usage] = {}
        """The latest total of each run below this one, by its id."""
        self._taken: set[str] = set()
        """The runs of ended visits."""

    def restore(self, used: Usage) -> None:
        """Continue a run of an earlier runner process, in which it has used this."""
        self._used, self.total = sums_of(used), used

    def begin_workflow(self, limits: UsageLimits, used_below: Iterable[Usage]) -> None:
        """Check the run and its children against the budget of a workflow, in addition to the runner's budgets.

        `used_below`: what the children of its ended visits have used in earlier processes.
        """
        self._of_workflow = limits
        for used in used_below:
            self._used_below += sums_of(used)
        self._all_budgets.begin_workflow(self)

    async def begin(self) -> None:
        """Call this before each execution of the run. Raises `RunRefused` if a budget is used up."""
        if self._trees is not None and self._held is None:
            # A resume may name another session than the one that started this one.
            parent = self.run.parent_session_id if self.run.type == "start_session" else UNSET
            self._held = await self._trees.hold(self.run.session_id, parent=parent, may_guess=True)
            self._held.tree.listeners[self.run.run_id] = self._on_exceeded
        for each in self._sums():
            if (spent := _spent(each, is_enough=operator.ge)) is not None:
                raise RunRefused(f"budget used up: {spent}")

    def note(self, total: Usage) -> None:
        """Take what all executions of the run have used so far. The greatest total of each kind counts."""
        self.total = total
        before, self._used = self._used, _at_least(self._used, sums_of(total))
        if self._used == before:
            return
        if self._trees is not None and self._held is not None:
            self._trees.add_usage(self._held, _difference(self._used, before))
        self._check()
        self._all_budgets.note(self.run, total)

    def note_child(self, run_id: str, total: Usage) -> None:
        """Take what a run below this one has used so far."""
        before = sums_of(self._children.get(run_id, Usage()))
        self._children[run_id] = total
        self._used_below += _difference(_at_least(before, sums_of(total)), before)
        self._check()

    def take_children(self) -> Usage | None:
        """Return what the children have used that were not returned before; None if nothing is known."""
        usages = [usage for run_id, usage in self._children.items() if run_id not in self._taken]
        self._taken |= self._children.keys()
        return functools.reduce(Usage.plus, usages) if usages else None

    def close(self) -> None:
        """May be repeated."""
        self._all_budgets.end(self)
        held, self._held = self._held, None
        if self._trees is not None and held is not None:
            del held.tree.listeners[self.run.run_id]
            self._trees.release(held)

    def _check(self) -> None:
        for each in self._sums():
            if (spent := _spent(each, is_enough=operator.gt)) is not None:
                for on_exceeded in each.listeners:
                    on_exceeded(f"budget exceeded: {spent}")

    def _sums(self) -> Iterator["_Sum"]:
        own = (self._on_exceeded,)
        yield _Sum("the run", self._used, self._budget.run, own)
        yield _Sum("the workflow", self._used + self._used_below, self._of_workflow, own)
        if self._held is not None:
            record, tree = self._held.record, self._held.tree
            yield _Sum(f"session {record.session_id}", record.used, self._budget.session, own)
            listeners = tuple(tree.listeners.values())
            yield _Sum(f"the tree of session {tree.root_session_id}", tree.used, self._budget.tree, listeners)


class _Sum(NamedTuple):
    name: str
    used: UsageSums
    limits: UsageLimits
    listeners: tuple[OnExceeded, ...]
    """For the runs that end if the sum is too great."""


def _spent(each: _Sum, is_enough: Callable[[float, float], bool]) -> str | None:
    """Return how much of a maximum is used; None if no maximum of the sum is reached. `is_enough`: `ge` or `gt`."""
    used, limits = each.used, each.limits
    if limits.max_cost_usd is not None and is_enough(used.cost_usd, limits.max_cost_usd):
        return f"{each.name} has used {usd_text(used.cost_usd)} of {usd_text(limits.max_cost_usd)} USD (max_cost_usd)"
    if limits.max_tokens is not None and is_enough(used.tokens, limits.max_tokens):
        return f"{each.name} has used {used.tokens:,} of {limits.max_tokens:,} tokens (max_tokens)"
    if limits.max_turns is not None and is_enough(used.turns, limits.max_turns):
        return f"{each.name} has used {used.turns:,} of {limits.max_turns:,} turns (max_turns)"
    return None


def sums_of(usage: Usage) -> UsageSums:
    """Return the sums of one report. Executors report anything: a negative count is none, and a huge one is limited."""
    tokens = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_written_tokens)
    return UsageSums(
        float(_valid(usage.cost_usd or 0.0)),
        _valid(sum(_valid(count or 0) for count in tokens)),
        _valid(usage.turns or 0),
    )


def _valid(count: Number) -> Number:
    # The comparison is false for a NaN.
    return min(count, type(count)(MOST_USED)) if count > 0 else type(count)(0)


def _at_least(used: UsageSums, other: UsageSums) -> UsageSums:
    return UsageSums(max(used.cost_usd, other.cost_usd), max(used.tokens, other.tokens), max(used.turns, other.turns))


def _difference(used: UsageSums, before: UsageSums) -> UsageSums:
    return UsageSums(used.cost_usd - before.cost_usd, used.tokens - before.tokens, used.turns - before.turns)
