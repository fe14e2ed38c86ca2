"""Migrates journals of earlier releases: their tables, the names of states and events, and stored messages."""

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from fsm_runner.journal.records import RUN, RUNNER, SESSION, TransitionRow
from fsm_runner.journal.schema import (
    PROCESSES_TABLE,
    RUNNER_TRANSITIONS_INDEX,
    SCHEMA_VERSION,
    TRANSITION_COLUMNS,
    TREE_SESSIONS_INDICES,
    TREE_SESSIONS_TABLE,
    WORKFLOWS_TABLES,
    transaction,
)

WITH_USAGE = 2
"""The schema version that added the usage of runs."""
WITH_PROVISIONAL = 3
"""The schema version that added provisional outcomes, and renamed states and events."""
WITH_TREES = 4
"""The schema version that added the usage of sessions and trees."""
WITH_WORKFLOWS = 5
"""The schema version that added workflows."""

RENAMED_STATES = {RUN: {"settled_elsewhere": "superseded"}, RUNNER: {"cut_off": "disconnected"}}
"""Old to new. The state `stopping` of a session became two: `stopping_turn` and `stopping_idle`."""
RENAMED_EVENTS = {
    RUNNER: {
        "journal_stuck": "journal_unwritable",
        "journal_unstuck": "journal_writable",
        "hurry_requested": "stop_now_requested",
    }
}
_MESSAGE_FIELDS = {"patience_s": "give_up_after_s", "kept": "durable"}


class CurrentNames:
    """Translates transitions of a version before 3, which must come in their order, to the current names."""

    def __init__(self) -> None:
        self.in_turn: set[str] = set()
        """The sessions in a turn, or whose latest turn was their last."""
        self.reporting: set[str] = set()
        self._provisional_runs: set[str] = set()

    def of(self, row: TransitionRow) -> TransitionRow:
        states = RENAMED_STATES.get(row.machine, {})
        if row.machine == SESSION:
            self._follow_session(row)
            states = {"stopping": "stopping_turn" if row.subject in self.in_turn else "stopping_idle"}
        return msgspec.structs.replace(
            row,
            event=RENAMED_EVENTS.get(row.machine, {}).get(row.event, row.event),
            source=None if row.source is None else states.get(row.source, row.source),
            target=states.get(row.target, row.target),
            provisional=row.machine == RUN and self._is_provisional(row),
        )

    def _follow_session(self, row: TransitionRow) -> None:
        if row.target in ("starting", "busy"):
            self.in_turn.add(row.subject)
        elif row.target == "idle":
            self.in_turn.discard(row.subject)
        (self.reporting.add if row.target == "reporting" else self.reporting.discard)(row.subject)

    def _is_provisional(self, row: TransitionRow) -> bool:
        """Outcomes that were decided in `recovering` are provisional, from that step on."""
        if row.outcome is not None and row.source == "recovering":
            self._provisional_runs.add(row.subject)
        return row.subject in self._provisional_runs


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Migrate from an earlier version, completely or not at all."""
    with transaction(connection, "EXCLUSIVE"):
        for step in _STEPS[version - 1 :]:
            step(connection)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _add_usage(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE runs ADD COLUMN usage BLOB")
    connection.execute(PROCESSES_TABLE)


def _add_provisional(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE transitions ADD COLUMN provisional INTEGER NOT NULL DEFAULT 0")
    _rename_steps(connection)
    connection.execute(_KEEP_DECISIONS_ON_REPORTS)
    connection.execute("ALTER TABLE runs DROP COLUMN report_overrules")
    _rename_message_fields(connection)


def _rename_steps(connection: sqlite3.Connection) -> None:
    names, changed = CurrentNames(), []
    for columns in connection.execute(f"SELECT {TRANSITION_COLUMNS} FROM transitions ORDER BY seq"):  # noqa: S608 - our own column names
        row = _row(columns)
        new = names.of(row)
        if new != row:
            changed.append((new.event, new.source, new.target, new.provisional, new.seq))
    connection.executemany(
        "UPDATE transitions SET event = ?, source = ?, target = ?, provisional = ? WHERE seq = ?", changed
    )
    for (session_id,) in connection.execute("SELECT session_id FROM sessions WHERE ended_at IS NULL").fetchall():
        if session_id in names.in_turn & names.reporting:
            connection.execute(_END_IN_TURN, {"session_id": session_id})


_END_IN_TURN = """
UPDATE transitions SET target = CASE outcome WHEN 'stopped' THEN 'stopped' ELSE 'failed' END
WHERE seq = (SELECT max(seq) FROM transitions WHERE machine = 'session' AND subject = :session_id)
"""
"""A session that ended in a turn reports nothing, so its last state is final."""


_KEEP_DECISIONS_ON_REPORTS = """
UPDATE transitions SET provisional = NOT report_overrules FROM runs
WHERE machine = 'run' AND subject = run_id AND outcome IS NOT NULL AND ended_at IS NULL AND report_overrules IS NOT NULL
"""
"""Version 2 recorded with the report of an open run whether it overrules the coordinator's end."""


def _rename_message_fields(connection: sqlite3.Connection) -> None:
    for (message_id,) in connection.execute("SELECT id FROM messages").fetchall():
        content: bytes = connection.execute("SELECT content FROM messages WHERE id = ?", (message_id,)).fetchone()[0]
        try:
            message = msgspec.msgpack.decode(content)
        except msgspec.DecodeError:
            continue  # the outbox reports it
        if isinstance(message, dict):
            renamed = msgspec.msgpack.encode(_current_message(message))
            connection.execute("UPDATE messages SET content = ? WHERE id = ?", (renamed, message_id))


def _current_message(message: dict[str, Any]) -> dict[str, Any]:
    current = {_MESSAGE_FIELDS.get(name, name): value for name, value in message.items()}
    if isinstance(ending := current.get("ending"), dict) and "overrules" in ending:
        ending["provisional"] = not ending.pop("overrules")
    return current


def _add_waits_workspaces_and_trees(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE runs ADD COLUMN wait BLOB")
    connection.execute("ALTER TABLE runs ADD COLUMN workspace BLOB")
    for statement in (TREE_SESSIONS_TABLE, *TREE_SESSIONS_INDICES):
        connection.execute(statement)


def _add_workflows(connection: sqlite3.Connection) -> None:
    for statement in (*WORKFLOWS_TABLES, "DROP INDEX transitions_of_no_subject", RUNNER_TRANSITIONS_INDEX):
        connection.execute(statement)


_STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _add_usage,
    _add_provisional,
    _add_waits_workspaces_and_trees,
    _add_workflows,
)
"""The step at index 0 makes version 2 of version 1, and so on."""


def transitions(connection: sqlite3.Connection, version: int, query: str, *values: str | int) -> list[TransitionRow]:
    """Return the transitions that a query for `{columns}` selects, under their current names."""
    columns = TRANSITION_COLUMNS if version >= WITH_PROVISIONAL else TRANSITION_COLUMNS.replace("provisional", "0")
    rows = [_row(row) for row in connection.execute(query.format(columns=columns), values)]
    return rows if version >= WITH_PROVISIONAL else list(map(CurrentNames().of, rows))


def _row(columns: tuple[Any, ...]) -> TransitionRow:
    row = dict(zip(TransitionRow.__struct_fields__, columns, strict=True))
    return TransitionRow(**{**row, "provisional": bool(row["provisional"])})
