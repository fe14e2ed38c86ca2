"""The open journal file, which belongs to one thread."""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import chain, groupby
from pathlib import Path

import msgspec

from fsm_runner.journal.batch import Batch, SessionEndRow, SessionStartRow
from fsm_runner.journal.limits import RetentionLimits
from fsm_runner.journal.opening import opened
from fsm_runner.journal.pruning import Pruner
from fsm_runner.journal.schema import SCHEMA_VERSION, TRANSITION_COLUMNS

_MOST_ROWS = 64
"""The rows of one statement. Each call of SQLite releases the interpreter lock, which a busy loop is slow to give."""

# A batch may be on disk already: a write can fail after the disk has taken it.
_TRANSITIONS = f"INSERT INTO transitions ({TRANSITION_COLUMNS}) VALUES {{rows}} ON CONFLICT DO NOTHING"  # noqa: S608
_CLAIMS = """
INSERT INTO runs (run_id, session_id, agent, runner_id, claimed_at, run) VALUES {rows} ON CONFLICT DO NOTHING
"""
_REPORTS = """
UPDATE runs SET report_path = new.column2, report_body = new.column3
FROM (VALUES {rows}) AS new
WHERE run_id = new.column1 AND ended_at IS NULL
"""
_USAGES = "UPDATE runs SET usage = new.column2 FROM (VALUES {rows}) AS new WHERE run_id = new.column1"
# The claim is deleted: it may contain a whole agent and its parameters.
_RUN_ENDS = """
UPDATE runs SET ended_at = new.column2, run = x'' FROM (VALUES {rows}) AS new
WHERE run_id = new.column1 AND ended_at IS NULL
"""
_SESSION_BEGAN = """
INSERT OR REPLACE INTO sessions (session_id, runner_id, began_at, after_seq, run) VALUES {rows}
"""
_SESSION_ENDED = """
UPDATE sessions SET ended_at = new.column2, run = x'' FROM (VALUES {rows}) AS new
WHERE session_id = new.column1 AND ended_at IS NULL
"""
_MESSAGE_PUT = "INSERT INTO messages VALUES {rows} ON CONFLICT DO NOTHING"
_MESSAGE_GONE = "DELETE FROM messages WHERE id IN (VALUES {rows})"


class JournalFileGone(Exception):
    """A file of the journal was deleted or replaced while it is open. The text names it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was deleted or replaced while this runner uses it, so further records would be lost: put it back, "
            "or restart the runner"
        )


class Writer:
    """An open journal. One thread opens, uses and closes it."""

    def __init__(self, folder: Path | None, limits: RetentionLimits) -> None:
        """Open or create the journal; None: in memory. Raises UsageError, which names the file."""
        found = opened(folder, limits)
        self.path = found.path
        self.recovered = found.recovered
        self.last_transition = found.last_transition
        self.last_message = found.last_message
        self.process = found.process
        self.earlier_processes = found.earlier_processes
        self._connection = found.connection
        self._lock = found.lock
        self._files = found.files
        self._pruner = Pruner(found.connection, limits)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def write(self, batch: Batch) -> None:
        """Write all of it or nothing. Raises sqlite3.Error or JournalFileGone."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._write_records(batch)
            self.check()
            self._connection.execute("COMMIT")
        finally:
            # A failed COMMIT may have rolled back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def check(self) -> None:
        """Raise JournalFileGone if a file of the journal was deleted or replaced."""
        if (missing := self._files.first_missing()) is not None:
            raise JournalFileGone(missing)

    def message(self, message_id: int) -> bytes:
        """Return a message's content. Raises KeyError if it was deleted, sqlite3.Error if it cannot be read."""
        row = self._connection.execute("SELECT content FROM messages WHERE id = ?", (message_id,)).fetchone()
        if row is None:
            raise KeyError(message_id)
        content: bytes = row[0]
        return content

    def has_run(self, run_id: str) -> bool:
        """Return whether the journal has a claim of the run. Raises sqlite3.Error if it cannot be read."""
        return self._connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None

    def prune(self) -> bool:
        """Delete one chunk of records beyond the retention limits; return True if there is more."""
        return self._pruner.step()

    def _write_records(self, batch: Batch) -> None:
        if batch.is_empty():
            # Only a write shows whether the disk can be written.
            self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._write_rows(_TRANSITIONS, [msgspec.structs.astuple(row) for row in batch.transitions])
        self._write_rows(_CLAIMS, batch.claims)
        self._write_rows(_REPORTS, list(batch.reports.values()))
        self._write_rows(_USAGES, list(batch.usages.values()))
        self._write_rows(_RUN_ENDS, list(batch.run_ends.values()))
        for kind, rows in groupby(batch.sessions, type):
            self._write_rows(_SESSION_STATEMENTS[kind], list(rows))
        self._write_rows(_MESSAGE_PUT, list(batch.messages.values()))
        self._write_rows(_MESSAGE_GONE, [(message_id,) for message_id in batch.deleted])

    def _write_rows(self, form: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Write in groups of 64, 32, … 1 rows, which takes few calls and few prepared statements."""
        at = 0
        while at < len(rows):
            count = min(_MOST_ROWS, 1 << (len(rows) - at).bit_length() - 1)
            group = rows[at : at + count]
            self._connection.execute(_statement(form, count, len(group[0])), list(chain.from_iterable(group)))
            at += count


_SESSION_STATEMENTS = {SessionStartRow: _SESSION_BEGAN, SessionEndRow: _SESSION_ENDED}


@cache
def _statement(form: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return form.format(rows=", ".join([row] * rows))
