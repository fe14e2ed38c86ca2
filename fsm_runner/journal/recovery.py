"""Reads what an earlier process left in the journal."""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from fsm_runner.journal.limits import ENDED_RECOVERED, RECOVERED_CONTENT_BYTES
from fsm_runner.journal.records import RUN, SESSION, EndedRun, OpenRun, OpenSession, Recovered, Report, StoredMessage
from fsm_runner.journal.workflows import position_of

_OPEN_RUNS = """
SELECT run, run_id, session_id, runner_id, report_path, report_body, usage, wait, workspace
FROM runs WHERE ended_at IS NULL ORDER BY seq
"""
_OPEN_SESSIONS = "SELECT session_id, run, runner_id, after_seq FROM sessions WHERE ended_at IS NULL ORDER BY seq"
_MESSAGES = """
SELECT id, session_id, CASE WHEN length(content) <= ? THEN content END, length(content) FROM messages ORDER BY id
"""
_ENDED_RUNS = """
SELECT run_id, report_path, report_body FROM runs WHERE ended_at IS NOT NULL AND report_path IS NOT NULL
ORDER BY ended_at DESC, seq DESC LIMIT ?
"""
_STEPS = """
SELECT event, target, outcome, provisional, reason, source FROM transitions
WHERE machine = ? AND subject = ? AND seq > ? ORDER BY seq
"""


class _Step(NamedTuple):
    event: str = ""
    target: str = ""
    outcome: str | None = None
    provisional: int = 0
    reason: str = ""
    source: str | None = None


def recover(connection: sqlite3.Connection) -> Recovered:
    newest_first = connection.execute(_ENDED_RUNS, (ENDED_RECOVERED,)).fetchall()
    return Recovered(
        runs=tuple(_open_runs(connection)),
        sessions=tuple(_open_sessions(connection)),
        messages=tuple(
            StoredMessage(number, session_id, content, 0 if content is not None else size_bytes)
            for number, session_id, content, size_bytes in connection.execute(_MESSAGES, (RECOVERED_CONTENT_BYTES,))
        ),
        ended=tuple(EndedRun(run_id, Report(path, body)) for run_id, path, body in reversed(newest_first)),
    )


def _open_runs(connection: sqlite3.Connection) -> Iterator[OpenRun]:
    rows = connection.execute(_OPEN_RUNS).fetchall()
    for run, run_id, session_id, runner_id, path, body, usage, wait, workspace in rows:
        steps = _steps(connection, RUN, run_id)
        yield OpenRun(
            run=run,
            run_id=run_id,
            session_id=session_id,
            runner_id=runner_id,
            state=steps[-1].target,
            outcome=steps[-1].outcome,
            provisional=bool(steps[-1].provisional),
            failure=next((step.reason for step in steps if step.outcome == "failed"), ""),
            report=None if path is None else Report(path, body),
            interruptions=sum(step.event == "interrupted" for step in steps),
            usage=usage,
            wait=wait,
            workspace=workspace,
            workflow=position_of(connection, run_id),
        )


def _open_sessions(connection: sqlite3.Connection) -> Iterator[OpenSession]:
    for session_id, run, runner_id, after_seq in connection.execute(_OPEN_SESSIONS).fetchall():
        last = _steps(connection, SESSION, session_id, after_seq)[-1]
        yield OpenSession(session_id=session_id, run=run, runner_id=runner_id, state=last.target, outcome=last.outcome)


def _steps(connection: sqlite3.Connection, machine: str, subject: str, after_seq: int = 0) -> list[_Step]:
    """Return the subject's transitions since it began, perhaps again; an empty one if there is none."""
    steps = [_Step(*row) for row in connection.execute(_STEPS, (machine, subject, after_seq))] or [_Step()]
    return steps[max((index for index, step in enumerate(steps) if step.source is None), default=0) :]
