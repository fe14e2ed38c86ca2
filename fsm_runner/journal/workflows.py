"""Reads the workflows of runs, their visits, and the runs that are to repeat another one."""

import sqlite3
from collections.abc import Iterator

import msgspec

from fsm_runner.journal.records import VisitRecord, WorkflowPosition, WorkflowRecord

WORKFLOW_COLUMNS = ", ".join(WorkflowRecord.__struct_fields__)
_VISIT_COLUMNS = ", ".join(VisitRecord.__struct_fields__)

_WORKFLOW = f"SELECT began_at, {WORKFLOW_COLUMNS} FROM workflows WHERE run_id = ?"  # noqa: S608 - our own column names
_VISITS = f"SELECT {_VISIT_COLUMNS} FROM workflow_visits WHERE run_id = ? ORDER BY number"  # noqa: S608 - our own column names
_LAST = f"SELECT {_VISIT_COLUMNS} FROM workflow_visits WHERE run_id = ? ORDER BY number DESC LIMIT 1"  # noqa: S608 - our own column names
_COUNTS = "SELECT state, count(*) FROM workflow_visits WHERE run_id = ? GROUP BY state"
# SQLite takes the other columns from the row with the greatest number.
_VALUES = """
SELECT value_name, value, max(number) FROM workflow_visits
WHERE run_id = ? AND number < ? AND value IS NOT NULL GROUP BY value_name ORDER BY max(number)
"""
_USAGES = "SELECT usage FROM workflow_visits WHERE run_id = ? AND usage IS NOT NULL ORDER BY number"
_EVERY_VISIT = 2**62


def workflow_of(connection: sqlite3.Connection, run_id: str) -> tuple[str, WorkflowRecord] | None:
    """Return when the workflow of a run began, and the workflow; None if the run has none."""
    row = connection.execute(_WORKFLOW, (run_id,)).fetchone()
    return None if row is None else (row[0], _workflow(tuple(row)[1:]))


def visits_of(connection: sqlite3.Connection, run_id: str) -> Iterator[VisitRecord]:
    return map(_visit, connection.execute(_VISITS, (run_id,)))


def values_before(
    connection: sqlite3.Connection, run_id: str, carried: dict[str, bytes], before: int | None = None
) -> dict[str, bytes]:
    """Return the values that a run had before a visit, as JSON by name, in the order of their visits.

    `before`: the number of that visit; None: after the last one.
    `carried`: those with which it began.
    """
    limit = _EVERY_VISIT if before is None else before
    assigned = {name: value for name, value, _ in connection.execute(_VALUES, (run_id, limit))}
    return {name: value for name, value in carried.items() if name not in assigned} | assigned


def position_of(connection: sqlite3.Connection, run_id: str) -> WorkflowPosition | None:
    """Return where the workflow of a run is; None if the run has none."""
    if (found := workflow_of(connection, run_id)) is None:
        return None
    began_at, record = found
    start = start_of(record, began_at)
    if (row := connection.execute(_LAST, (run_id,)).fetchone()) is None:
        return start
    last = _visit(row)
    return msgspec.structs.replace(
        start,
        state=last.state if last.target is None else last.target,
        counts=dict(connection.execute(_COUNTS, (run_id,)).fetchall()),
        values=values_before(connection, run_id, start.values),
        usages=tuple(usage for (usage,) in connection.execute(_USAGES, (run_id,))),
        last_number=last.number,
        open=last if last.ended_at is None else None,
        last_ended=None if last.target is None else last,
    )


def start_of(record: WorkflowRecord, began_at: str) -> WorkflowPosition:
    """Return where a workflow is before its first visit."""
    return WorkflowPosition(
        record=record, began_at=began_at, state=record.rerun_from or "", values=carried_values(record)
    )


def carried_values(record: WorkflowRecord) -> dict[str, bytes]:
    """Return the values with which a workflow begins, as JSON by name."""
    values = msgspec.json.decode(record.initial_values or b"{}", type=dict[str, msgspec.Raw])
    return {name: bytes(value) for name, value in values.items()}


def reruns(connection: sqlite3.Connection) -> dict[str, WorkflowRecord]:
    """Return the workflows of runs that are to repeat another one and are not claimed yet, by their sessions."""
    rows = connection.execute("SELECT session_id, workflow FROM reruns").fetchall()
    return {session_id: msgspec.msgpack.decode(workflow, type=WorkflowRecord) for session_id, workflow in rows}


# The queries select the columns in the order of the fields, and with their types.
def _workflow(columns: tuple[object, ...]) -> WorkflowRecord:
    return WorkflowRecord(**dict(zip(WorkflowRecord.__struct_fields__, columns, strict=True)))  # type: ignore[arg-type]


def _visit(columns: tuple[object, ...]) -> VisitRecord:
    return VisitRecord(**dict(zip(VisitRecord.__struct_fields__, columns, strict=True)))  # type: ignore[arg-type]
