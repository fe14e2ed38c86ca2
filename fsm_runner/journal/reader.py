"""Reads journals, also those that a runner is writing, without locking or changing them."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TypeVar

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.journal import trees, workflows
from fsm_runner.journal.limits import BUSY_WITHIN_S
from fsm_runner.journal.migration import WITH_TREES, WITH_USAGE, WITH_WORKFLOWS, transitions
from fsm_runner.journal.opening import JOURNAL_FILE
from fsm_runner.journal.records import (
    RUN,
    RUNNER,
    SESSION,
    WORKFLOW,
    Transition,
    TransitionRow,
    UsageSums,
    VisitRecord,
    WorkflowRecord,
)
from fsm_runner.journal.schema import version_of

Value = TypeVar("Value")

_STEPS = "SELECT {columns} FROM transitions WHERE machine = ? AND subject = ? ORDER BY seq"
_LATEST_STEPS = (
    "SELECT {columns} FROM (SELECT * FROM transitions WHERE machine = ? ORDER BY seq DESC LIMIT ?) ORDER BY seq"
)
_LATEST_RUNS = "SELECT run_id FROM runs ORDER BY seq DESC LIMIT ?"
_RUNS_OF_SESSION = "SELECT run_id FROM runs WHERE session_id = ? ORDER BY seq"
_RUN = """
SELECT run_id, session_id, agent, runner_id, claimed_at, ended_at, report_path, report_body, {usage} AS usage
FROM runs WHERE run_id = ?
"""
_SESSION = "SELECT session_id, runner_id, began_at, ended_at FROM sessions WHERE session_id = ?"


class Step(Transition, frozen=True, kw_only=True, tag="step"):
    """A transition, for `history`."""

    journal: str
    """The name of the journal's folder."""
    at: str
    stayed_s: float | None
    """How long the target state lasted; None for the last step."""


class RunLife(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    journal: str
    run_id: str
    session_id: str
    agent: str | None
    runner_id: str
    claimed_at: str
    ended_at: str | None
    state: str
    """The target of its last transition; empty if it has none."""
    outcome: str | None
    lasted_s: float | None
    """From its first transition to its last; None while it has not ended."""
    report_path: str | None
    report_body: str | None
    usage: msgspec.Raw | None
    """JSON; None if the executor reported none."""


class SessionLife(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """The life of a persistent executor; the latest one, if it started several times."""

    journal: str
    session_id: str
    runner_id: str
    began_at: str
    ended_at: str | None


class SessionUsage(msgspec.Struct, frozen=True, kw_only=True, tag="usage"):
    """What a session and its tree have used, as the runner counts it for budgets."""

    journal: str
    session_id: str
    depth: int
    """The number of sessions above it."""
    used: UsageSums
    root_session_id: str
    below_root: int
    """The number of sessions in the tree, except the root."""
    used_by_tree: UsageSums


class WorkflowLife(msgspec.Struct, frozen=True, kw_only=True):
    began_at: str
    record: WorkflowRecord


class Reader:
    """A snapshot of one journal. `close` releases it."""

    def __init__(self, path: Path) -> None:
        """Open a journal. Raises UsageError, which names the file, if it cannot be read."""
        self.journal = path.parent.name
        self._path = path
        address = f"{path.absolute().as_uri()}?mode=ro"
        with ExitStack() as on_error:
            try:
                self._connection = sqlite3.connect(address, uri=True, timeout=BUSY_WITHIN_S, isolation_level=None)
                on_error.callback(self._connection.close)
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("BEGIN")
                self._version = version_of(self._connection, str(path))
            except sqlite3.Error as error:
                raise UsageError(_cannot_read(path, error)) from None
            on_error.pop_all()
        # A journal of an earlier release is migrated only when its runner starts.
        self._run_query = _RUN.format(usage="usage" if self._version >= WITH_USAGE else "NULL")

    def close(self) -> None:
        self._connection.close()

    def latest_runs(self, count: int) -> list[RunLife]:
        """Return the runs that were claimed last, in the order of their claims."""
        newest_first = self._rows(_LATEST_RUNS, count)
        return [life for (run_id,) in reversed(newest_first) for life in self.run(run_id)]

    def run(self, run_id: str) -> list[RunLife]:
        """Return the run in a list, which is empty if the journal does not have it."""
        return [self._run_life(row) for row in self._rows(self._run_query, run_id)]

    def session(self, session_id: str) -> list[SessionLife]:
        """Return the session in a list, which is empty for a session of one-shot runs."""
        return [SessionLife(journal=self.journal, **dict(row)) for row in self._rows(_SESSION, session_id)]

    def runs_of_session(self, session_id: str) -> list[RunLife]:
        return [life for (run_id,) in self._rows(_RUNS_OF_SESSION, session_id) for life in self.run(run_id)]

    def usage_of_session(self, session_id: str) -> list[SessionUsage]:
        """Return the usage in a list, which is empty if the runner does not count that of the session."""
        return self._read(lambda: self._usage_of(session_id) if self._version >= WITH_TREES else [])

    def _usage_of(self, session_id: str) -> list[SessionUsage]:
        if (session := trees.tree_session(self._connection, session_id)) is None:
            return []
        totals = trees.tree_totals(self._connection, session.root_session_id, ())
        return [
            SessionUsage(
                journal=self.journal,
                session_id=session_id,
                depth=session.depth,
                used=session.used,
                root_session_id=session.root_session_id,
                below_root=totals.below_root,
                used_by_tree=totals.used,
            )
        ]

    def steps_of_run(self, run_id: str) -> list[Step]:
        return self._steps(_STEPS, RUN, run_id)

    def workflow_of(self, run_id: str) -> list[WorkflowLife]:
        """Return the workflow of a run in a list, which is empty if the run has none."""
        return self._read(lambda: self._workflow_of(run_id) if self._version >= WITH_WORKFLOWS else [])

    def _workflow_of(self, run_id: str) -> list[WorkflowLife]:
        if (found := workflows.workflow_of(self._connection, run_id)) is None:
            return []
        began_at, record = found
        return [WorkflowLife(began_at=began_at, record=record)]

    def visits_of(self, run_id: str) -> Iterator[VisitRecord]:
        """Yield the visits of a workflow in their order. Their values can be long, so take one at a time."""
        try:
            yield from workflows.visits_of(self._connection, run_id)
        except sqlite3.Error as error:
            raise UsageError(_cannot_read(self._path, error)) from None

    def values_of_workflow(self, run_id: str, record: WorkflowRecord, before: int | None) -> dict[str, bytes]:
        """Return the values of a run's workflow before a visit, as JSON by name; the latest ones if that is None."""
        try:
            carried = workflows.carried_values(record)
            return workflows.values_before(self._connection, run_id, carried, before)
        except sqlite3.Error as error:
            raise UsageError(_cannot_read(self._path, error)) from None

    def steps_of_workflow(self, run_id: str) -> list[Step]:
        return self._steps(_STEPS, WORKFLOW, run_id)

    def steps_of_session(self, session_id: str) -> list[Step]:
        return self._steps(_STEPS, SESSION, session_id)

    def steps_of_runner(self, count: int) -> list[Step]:
        """Return the latest steps of the runner, oldest first."""
        return self._steps(_LATEST_STEPS, RUNNER, count)

    def _run_life(self, row: sqlite3.Row) -> RunLife:
        columns = dict(row)
        body, usage = columns.pop("report_body"), columns.pop("usage")
        steps = self.steps_of_run(row["run_id"])
        return RunLife(
            journal=self.journal,
            **columns,
            state=steps[-1].target if steps else "",
            outcome=steps[-1].outcome if steps else None,
            lasted_s=None if row["ended_at"] is None else sum(step.stayed_s or 0.0 for step in steps),
            report_body=None if body is None else body.decode("utf-8", "replace"),
            usage=None if usage is None else msgspec.Raw(usage),
        )

    def _steps(self, query: str, *values: str | int) -> list[Step]:
        rows = self._read(lambda: transitions(self._connection, self._version, query, *values))
        stays = [_stay_s(row, later) for row, later in pairwise(rows)]
        return [
            Step(
                journal=self.journal,
                at=row.at,
                stayed_s=stayed_s,
                **{field: getattr(row, field) for field in Transition.__struct_fields__},
            )
            for row, stayed_s in zip_longest(rows, stays)
        ]

    def _rows(self, query: str, *values: str | int) -> list[sqlite3.Row]:
        return self._read(lambda: self._connection.execute(query, values).fetchall())

    def _read(self, query: Callable[[], list[Value]]) -> list[Value]:
        """Return what the query finds, which is nothing in an empty file."""
        try:
            return query() if self._version > 0 else []
        except sqlite3.Error as error:
            raise UsageError(_cannot_read(self._path, error)) from None


def journals(state_dir: Path) -> list[Path]:
    """Return the journal files of all runner identities."""
    return sorted(state_dir.glob(f"*/{JOURNAL_FILE}"))


def seconds_between(earlier: str, later: str) -> float:
    """Return the difference by the wall clock; 0 if the clock was set back in between."""
    return max(0.0, (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds())


def _stay_s(row: TransitionRow, later: TransitionRow) -> float:
    """Return the time between two steps. Monotonic times of different processes cannot be compared."""
    if row.process == later.process:
        return later.monotonic_s - row.monotonic_s
    return seconds_between(row.at, later.at)


def _cannot_read(path: Path, error: sqlite3.Error) -> str:
    return f"{path}: the journal cannot be read: {error}"
