"""Reasons why the coordinator cannot use its database."""

import sqlite3
from pathlib import Path

from fsm_runner.coordinator_server.errors import StorageFull, Unavailable
from fsm_runner.util.files import is_full

_REASONS = {
    sqlite3.SQLITE_IOERR: "a disk error occurred: check the disk and the file system",
    sqlite3.SQLITE_READONLY: "it cannot be written: make the file and its folder writable",
    sqlite3.SQLITE_PERM: "it cannot be written: make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its folder exists and is writable",
    sqlite3.SQLITE_BUSY: "another process has locked it: stop that process",
    sqlite3.SQLITE_LOCKED: "another process has locked it: stop that process",
    sqlite3.SQLITE_CORRUPT: "it is damaged: stop the coordinator, and restore a copy or move the file away",
    sqlite3.SQLITE_NOTADB: "it is damaged: stop the coordinator, and restore a copy or move the file away",
}
GONE = (
    "it was deleted or replaced while the coordinator uses it, and further changes would be lost: put the file back "
    "or restart the coordinator"
)


class DatabaseUnavailable(Unavailable):
    """The database cannot be used at present. The text has the reason and the remedy."""

    def __init__(self, file: Path | None, reason: str) -> None:
        super().__init__(f"the database {file} cannot be used: {reason}")


class DiskFull(DatabaseUnavailable, StorageFull):
    def __init__(self, file: Path | None) -> None:
        super().__init__(file, "its disk is full: free some space")


def unavailable(file: Path | None, error: sqlite3.Error) -> DatabaseUnavailable | None:
    """Return the reason, or None if the error is a defect of a statement and not of the file or the disk."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and file is not None and is_full(file.parent)):
        return DiskFull(file)
    if code not in _REASONS:
        return None
    return DatabaseUnavailable(file, f"{_REASONS[code]} ({error}, {error.sqlite_errorname})")
