"""What keeps the coordinator from using its database, in words, and with the status that answers a request."""

import sqlite3
from pathlib import Path

from fsm_runner.util.disk_space import is_full
from fsm_runner.util.held_files import HeldFiles

UNAVAILABLE, INSUFFICIENT_STORAGE = 503, 507

_PRIMARY_CODE = 0xFF
_REASONS = {
    sqlite3.SQLITE_IOERR: "its disk fails: check the disk and the file system",
    sqlite3.SQLITE_READONLY: "it cannot be written: make the file and its folder writable",
    sqlite3.SQLITE_PERM: "it cannot be written: make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its folder exists and is writable",
    sqlite3.SQLITE_BUSY: "another process has locked it: stop that process",
    sqlite3.SQLITE_LOCKED: "another process has locked it: stop that process",
    sqlite3.SQLITE_CORRUPT: "it is damaged: stop the coordinator, and restore a copy or move the file away",
    sqlite3.SQLITE_NOTADB: "it is damaged: stop the coordinator, and restore a copy or move the file away",
}
_FULL = "its disk is full: free some space"
_GONE = (
    "it was deleted or replaced while the coordinator uses it, and what is written now would be lost: put the file "
    "back, or restart the coordinator"
)


class DatabaseTrouble(Exception):
    """The database cannot be used at the moment. The text says why and what to do."""

    def __init__(self, file: Path | None, reason: str, status: int = UNAVAILABLE) -> None:
        super().__init__(f"the database {file} cannot be used: {reason}")
        self.status = status


def trouble_of(file: Path | None, error: sqlite3.Error) -> DatabaseTrouble | None:
    """None where the error is a defect of a statement and not the file's or the disk's."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and file is not None and is_full(file.parent)):
        return DatabaseTrouble(file, _FULL, INSUFFICIENT_STORAGE)
    if code not in _REASONS:
        return None
    return DatabaseTrouble(file, f"{_REASONS[code]} ({error}, {error.sqlite_errorname})")


class DatabaseFiles:
    """The files of an open database, and the disk that they are on."""

    def __init__(self, file: Path | None) -> None:
        """None: the database is in memory, and no trouble is found."""
        self._file = file
        self._held = HeldFiles(() if file is None else (file, file.with_name(f"{file.name}-wal")))

    def check_presence(self) -> None:
        """Raises `DatabaseTrouble` where one was deleted or replaced."""
        if self._held.first_missing() is not None:
            raise DatabaseTrouble(self._file, _GONE)

    def check_space(self) -> None:
        """Raises `DatabaseTrouble` where the disk is full."""
        if self._file is not None and is_full(self._file.parent):
            raise DatabaseTrouble(self._file, _FULL, INSUFFICIENT_STORAGE)
