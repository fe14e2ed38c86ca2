"""The open journal file, which belongs to one thread."""

import sqlite3
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from fsm_runner.journal import trees
from fsm_runner.journal.batch import Batch, Row
from fsm_runner.journal.limits import RetentionLimits
from fsm_runner.journal.opening import opened
from fsm_runner.journal.pruning import Pruner
from fsm_runner.journal.records import TreeSession, TreeTotals
from fsm_runner.journal.schema import SCHEMA_VERSION, transaction

_MOST_ROWS = 64
"""The rows of one statement. Each call of SQLite releases the interpreter lock, which a busy loop is slow to give."""


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
        self.opened = opened(folder, limits)
        self._connection = self.opened.connection
        self.prune = Pruner(self._connection, limits).step

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()
        if self.opened.lock is not None:
            self.opened.lock.close()

    def write(self, batch: Batch) -> None:
        """Write all of it or nothing. Raises sqlite3.Error or JournalFileGone."""
        with transaction(self._connection):
            if batch.is_empty():
                # Only a write shows whether the disk can be written.
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            for kind, rows in batch.statements():
                self._write_rows(kind.value, rows)
            self.check()

    def check(self) -> None:
        """Raise JournalFileGone if a file of the journal was deleted or replaced."""
        if (missing := self.opened.files.first_missing()) is not None:
            raise JournalFileGone(missing)

    def message(self, message_id: int) -> bytes:
        """Return a message's content. Raises KeyError if it was deleted, sqlite3.Error if it cannot be read."""
        row = self._connection.execute("SELECT content FROM messages WHERE id = ?", (message_id,)).fetchone()
        if row is None:
            raise KeyError(message_id)
        content: bytes = row[0]
        return content

    def has_run(self, run_id: str) -> bool:
        """Return whether the journal has a claim of the run. Raises sqlite3.Error if it cannot be read.

        A run that has ended without a report is not this runner's any more.
        """
        query = "SELECT 1 FROM runs WHERE run_id = ? AND (ended_at IS NULL OR report_path IS NOT NULL)"
        return self._connection.execute(query, (_storable(run_id),)).fetchone() is not None

    def tree_session(self, session_id: str) -> TreeSession | None:
        """Return a session's place and sums; None if there is no record of it. Raises sqlite3.Error."""
        return trees.tree_session(self._connection, _storable(session_id))

    def tree_totals(self, root_session_id: str, newer: Collection[TreeSession]) -> TreeTotals:
        """Return the totals of a tree with these newer records of its sessions. Raises sqlite3.Error."""
        return trees.tree_totals(self._connection, _storable(root_session_id), newer)

    def _write_rows(self, form: str, rows: list[Row]) -> None:
        """Write in groups of 64, 32, … 1 rows, which takes few calls and few prepared statements."""
        at = 0
        while at < len(rows):
            count = min(_MOST_ROWS, 1 << (len(rows) - at).bit_length() - 1)
            group = rows[at : at + count]
            values = [_storable(value) if isinstance(value, str) else value for value in chain.from_iterable(group)]
            self._connection.execute(_statement(form, count, len(group[0])), values)
            at += count


@cache
def _statement(form: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return form.format(rows=", ".join([row] * rows))


def _storable(text: str) -> str:
    """Return a text as SQLite accepts it: half a surrogate pair, perhaps of a file name, becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
