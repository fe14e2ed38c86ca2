"""Checks what runs use against their budgets, as their executors report it."""

import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from msgspec import UNSET

from fsm_runner.config.budgets import NO_BUDGET, NO_USAGE_LIMITS, Budget, UsageLimits
from fsm_runner.executors.interface import RunRefused
from fsm_runner.journal.records import MOST_USED, NOTHING_USED, UsageSums
from fsm_runner.protocol import wire
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.runtime.control.session_trees import HeldSession, SessionTrees
from fsm_runner.util.text import usd_text

Number = TypeVar("Number", int, float)
OnExceeded = Callable[[str], None]
"""Receives the reason why a run must end."""


class RunBudget(Protocol):
    """The budgets of one run. `close` at its end."""

    def restore(self, used: Usage) -> None:
        """Continue a run of an earlier runner process, in which it has used this."""

    async def begin(self) -> None:
        """Call this before each execution of the run. Raises `RunRefused` if a budget is used up."""

    def note(self, total: Usage) -> None:
        """Take what all executions of the run have used so far. The greatest total of each kind counts."""

    def close(self) -> None:
        """May be repeated."""


class Budgets:
    """The budgets of one runner."""

    def __init__(self, budget: Budget, trees: SessionTrees | None) -> None:
        """`trees`: None if there are no budgets of sessions and trees."""
        self._budget = budget
        self._trees = None if budget.session == budget.tree == NO_USAGE_LIMITS else trees

    def of(self, run: wire.Run, on_exceeded: OnExceeded) -> RunBudget:
        if self._budget == NO_BUDGET:
            return UNLIMITED
        return LimitedRun(run, self._budget, self._trees, on_exceeded)


class UnlimitedRun:
    """The `RunBudget` of all runs without a budget."""

    def restore(self, used: Usage) -> None:
        pass

    async def begin(self) -> None:
        pass

    def note(self, total: Usage) -> None:
        pass

    def close(self) -> None:
        pass


UNLIMITED = UnlimitedRun()
NO_BUDGETS = Budgets(NO_BUDGET, None)


class LimitedRun:
    """The `RunBudget` of one run."""

    def __init__(
        self,
        run: wire.Run,
        budget: Budget,
        trees: SessionTrees | None,
        on_exceeded: OnExceeded,
    ) -> None:
        """`trees`: None if only the run itself has a budget."""
        self._run = run
        self._budget = budget
        self._trees = trees
        self._on_exceeded = on_exceeded
        self._used = NOTHING_USED
        """What the run has used. The sums of its session and tree contain it."""
        self._held: HeldSession | None = None

    def restore(self, used: Usage) -> None:
        self._used = sums_of(used)

    async def begin(self) -> None:
        if self._trees is not None and self._held is None:
            # A resume may name another session than the one that started this one.
            parent = self._run.parent_session_id if self._run.type == "start_session" else UNSET
            self._held = await self._trees.hold(self._run.session_id, parent=parent, may_guess=True)
            self._held.tree.listeners[self._run.run_id] = self._on_exceeded
        for each in self._sums():
            if (spent := _spent(each, is_enough=operator.ge)) is not None:
                raise RunRefused(f"budget used up: {spent}")

    def note(self, total: Usage) -> None:
        before, self._used = self._used, _at_least(self._used, sums_of(total))
        if self._used == before:
            return
        if self._trees is not None and self._held is not None:
            self._trees.add_usage(self._held, _difference(self._used, before))
        for each in self._sums():
            if (spent := _spent(each, is_enough=operator.gt)) is not None:
                for on_exceeded in each.listeners:
                    on_exceeded(f"budget exceeded: {spent}")

    def close(self) -> None:
        held, self._held = self._held, None
        if self._trees is not None and held is not None:
            del held.tree.listeners[self._run.run_id]
            self._trees.release(held)

    def _sums(self) -> Iterator["_Sum"]:
        own = (self._on_exceeded,)
        yield _Sum("the run", self._used, self._budget.run, own)
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
