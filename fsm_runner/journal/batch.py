"""The records that are not on disk yet."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from itertools import groupby
from operator import itemgetter

from fsm_runner.journal.schema import TRANSITION_COLUMNS
from fsm_runner.journal.workflows import WORKFLOW_COLUMNS

Row = tuple[object, ...]


class RecordKind(Enum):
    """The kinds of records with the statements that write them. `{rows}` stands for the values.

    A batch may be on disk already when it is written, because a write can fail after the disk has taken it.
    """

    TRANSITION = f"INSERT INTO transitions ({TRANSITION_COLUMNS}) VALUES {{rows}} ON CONFLICT DO NOTHING"  # noqa: S608
    CLAIM = """
        INSERT INTO runs (run_id, session_id, agent, runner_id, claimed_at, run) VALUES {rows}
        ON CONFLICT (run_id) DO UPDATE SET claimed_at = excluded.claimed_at, run = excluded.run, ended_at = NULL,
            usage = NULL
        WHERE ended_at IS NOT NULL AND report_path IS NULL
        """
    WORKFLOW_DELETION = "DELETE FROM workflows WHERE run_id IN (VALUES {rows})"
    VISITS_DELETION = "DELETE FROM workflow_visits WHERE run_id IN (VALUES {rows})"
    REPORT = """
        UPDATE runs SET report_path = new.column2, report_body = new.column3 FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND ended_at IS NULL
        """
    USAGE = "UPDATE runs SET usage = new.column2 FROM (VALUES {rows}) AS new WHERE run_id = new.column1"
    WAIT = """
        UPDATE runs SET wait = new.column2 FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND ended_at IS NULL
        """
    WORKSPACE = """
        UPDATE runs SET workspace = new.column2 FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND ended_at IS NULL
        """
    WORKFLOW = f"INSERT OR REPLACE INTO workflows (run_id, began_at, {WORKFLOW_COLUMNS}) VALUES {{rows}}"  # noqa: S608
    VISIT = """
        INSERT INTO workflow_visits (run_id, number, state, began_at, due_s) VALUES {rows} ON CONFLICT DO NOTHING
        """
    VISIT_PROGRESS = """
        UPDATE workflow_visits SET progress = new.column3 FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND number = new.column2 AND ended_at IS NULL
        """
    VISIT_INTERRUPTED = """
        UPDATE workflow_visits SET interruptions = new.column3 FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND number = new.column2 AND ended_at IS NULL
        """
    VISIT_DUE = """
        UPDATE workflow_visits SET due_s = new.column3 FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND number = new.column2 AND ended_at IS NULL
        """
    VISIT_END = """
        UPDATE workflow_visits SET ended_at = new.column3, ending = new.column4, target = new.column5,
            value_name = new.column6, value = new.column7, usage = new.column8, progress = NULL
        FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND number = new.column2 AND ended_at IS NULL
        """
    WORKFLOW_END = """
        UPDATE workflow_visits SET ended_at = new.column2, ending = new.column3, progress = NULL
        FROM (VALUES {rows}) AS new WHERE run_id = new.column1 AND ended_at IS NULL
        """
    RERUN = "INSERT OR REPLACE INTO reruns (session_id, planned_at, workflow) VALUES {rows}"
    RERUN_DELETION = "DELETE FROM reruns WHERE session_id IN (VALUES {rows})"
    TREE_SESSION = "INSERT OR REPLACE INTO tree_sessions VALUES {rows}"
    # Deletes the claim, which may contain a whole agent and its parameters.
    RUN_END = """
        UPDATE runs SET ended_at = new.column2, run = x'', wait = NULL, workspace = NULL FROM (VALUES {rows}) AS new
        WHERE run_id = new.column1 AND ended_at IS NULL
        """
    SESSION_START = "INSERT OR REPLACE INTO sessions (session_id, runner_id, began_at, after_seq, run) VALUES {rows}"
    SESSION_END = """
        UPDATE sessions SET ended_at = new.column2, run = x'' FROM (VALUES {rows}) AS new
        WHERE session_id = new.column1 AND ended_at IS NULL
        """
    MESSAGE = "INSERT INTO messages VALUES {rows} ON CONFLICT DO NOTHING"
    MESSAGE_DELETION = "DELETE FROM messages WHERE id IN (VALUES {rows})"


_SESSION_KINDS = (RecordKind.SESSION_START, RecordKind.SESSION_END)
_RUN_KINDS = (
    RecordKind.CLAIM,
    RecordKind.WORKFLOW_DELETION,
    RecordKind.VISITS_DELETION,
    RecordKind.REPORT,
    RecordKind.USAGE,
    RecordKind.WAIT,
    RecordKind.WORKSPACE,
    RecordKind.WORKFLOW,
    RecordKind.VISIT,
    RecordKind.VISIT_PROGRESS,
    RecordKind.VISIT_INTERRUPTED,
    RecordKind.VISIT_DUE,
    RecordKind.VISIT_END,
    RecordKind.WORKFLOW_END,
    RecordKind.RUN_END,
    RecordKind.RERUN,
    RecordKind.RERUN_DELETION,
)
_INSERTIONS = (RecordKind.CLAIM, RecordKind.VISIT)
_ENDS = (RecordKind.RUN_END, RecordKind.VISIT_END, RecordKind.WORKFLOW_END)
_VISIT_CHANGES = (
    RecordKind.VISIT_PROGRESS,
    RecordKind.VISIT_INTERRUPTED,
    RecordKind.VISIT_DUE,
    RecordKind.VISIT_END,
)


class Batch:
    """Records that are written together or not at all."""

    def __init__(self) -> None:
        self.rows: defaultdict[RecordKind, list[Row]] = defaultdict(list)
        self.sessions: list[tuple[RecordKind, Row]] = []
        """Starts and ends, in the order of their calls."""
        self.messages: dict[int, tuple[str, bytes]] = {}
        """Session id and content by message id."""
        self.deleted: list[int] = []
        self.tree_sessions: dict[str, Row] = {}
        """The latest row by session id."""
        self.waiters: list[asyncio.Future[str | None]] = []
        """Resolved by `release`: None if the batch was written, else why not."""

    def is_empty(self) -> bool:
        return not (self.rows or self.sessions or self.messages or self.deleted or self.tree_sessions)

    def add(self, kind: RecordKind, *row: object) -> None:
        if kind in _SESSION_KINDS:
            self.sessions.append((kind, row))
        else:
            self.rows[kind].append(row)

    def delete_message(self, message_id: int) -> None:
        """Delete a message; one of this batch is not written at all."""
        if self.messages.pop(message_id, None) is None:
            self.deleted.append(message_id)

    def extend(self, newer: "Batch") -> None:
        """Append a later batch."""
        for kind, rows in newer.rows.items():
            # Without the rows that have no effect, since a disk may be full for hours.
            self.rows[kind] = _distinct(kind, self.rows[kind] + rows) if kind in _RUN_KINDS else self.rows[kind] + rows
        self.sessions += newer.sessions
        for message_id in newer.deleted:
            self.delete_message(message_id)
        self.messages.update(newer.messages)
        self.tree_sessions.update(newer.tree_sessions)
        self.waiters += newer.waiters

    def statements(self) -> Iterator[tuple[RecordKind, list[Row]]]:
        """Yield the rows by kind, in the order in which they must be written."""
        yield RecordKind.TRANSITION, self.rows.get(RecordKind.TRANSITION, [])
        for kind in _RUN_KINDS:
            yield kind, _distinct(kind, self.rows.get(kind, []))
        for kind, group in groupby(self.sessions, key=itemgetter(0)):
            yield kind, [row for _, row in group]
        yield RecordKind.TREE_SESSION, list(self.tree_sessions.values())
        yield RecordKind.MESSAGE, [(message_id, *message) for message_id, message in self.messages.items()]
        yield RecordKind.MESSAGE_DELETION, [(message_id,) for message_id in self.deleted]

    def release(self, failure: str | None) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(failure)
        self.waiters.clear()


def _distinct(kind: RecordKind, rows: list[Row]) -> list[Row]:
    """Return one row for each run or visit, as an UPDATE takes any of several: the first end, the latest of others."""
    if kind in _INSERTIONS:
        return rows
    key_columns = 2 if kind in _VISIT_CHANGES else 1
    ordered = reversed(rows) if kind in _ENDS else rows
    return list({row[:key_columns]: row for row in ordered}.values())
