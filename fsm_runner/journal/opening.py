"""Opens the file of a journal."""

import fcntl
import os
import secrets
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.journal.limits import BUSY_WITHIN_S, PROCESSES_KNOWN, WAL_LIMIT_BYTES, RetentionLimits
from fsm_runner.journal.migration import migrate
from fsm_runner.journal.pruning import Pruner
from fsm_runner.journal.records import Recovered, WorkflowRecord, utc_text
from fsm_runner.journal.recovery import recover
from fsm_runner.journal.schema import SCHEMA_VERSION, create_tables, transaction, version_of
from fsm_runner.journal.workflows import reruns
from fsm_runner.util.files import HeldFiles, is_full

JOURNAL_FILE = "journal.sqlite"
LOCK_FILE = "lock"
_FILES = (JOURNAL_FILE, f"{JOURNAL_FILE}-wal", f"{JOURNAL_FILE}-shm", LOCK_FILE)

# The first one must precede everything else in a new file.
_PRAGMAS = (
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    f"journal_size_limit={WAL_LIMIT_BYTES}",
    "synchronous=FULL",
    "temp_store=MEMORY",
    "secure_delete=FAST",
)


class FolderLock:
    """An exclusive lock on a folder. The system releases it when the process ends, for whatever reason."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder. Raises UsageError if another process has the lock, OSError if its file cannot be created."""
        self._descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise UsageError(
                f"{folder}: another runner with this identity is running (process {holder}): stop it, or let this one "
                "differ from it in its project directory, profile or host name"
            ) from None
        except OSError:
            self.close()
            raise
        with suppress(OSError):  # a full disk: the pid is only for an error message
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        os.close(self._descriptor)


class Opened(NamedTuple):
    path: Path | None
    connection: sqlite3.Connection
    lock: FolderLock | None
    recovered: Recovered
    last_transition: int
    last_message: int
    process: str
    earlier_processes: tuple[str, ...]
    """The processes that had the journal before. None of them is alive, since each had the lock."""
    files: HeldFiles
    reruns: dict[str, WorkflowRecord]
    """By session: the workflows of runs that are to repeat another one and are not claimed yet."""


def opened(folder: Path | None, limits: RetentionLimits) -> Opened:
    """Open, create or migrate the journal of a folder; None: in memory. Raises UsageError, which names the file."""
    path = None if folder is None else folder / JOURNAL_FILE
    with ExitStack() as on_error:
        lock = None
        if folder is not None:
            lock = _locked(folder)
            on_error.callback(lock.close)
        connection = _connected(path)
        on_error.callback(connection.close)
        try:
            version = version_of(connection, str(path))
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if version == 0:
                create_tables(connection)
            elif version < SCHEMA_VERSION:
                migrate(connection, version)
            Pruner(connection, limits).drop_ownerless()
            # The greatest numbers that a row of these tables ever had.
            query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?"
            step, message = (connection.execute(query, (table,)).fetchone()[0] for table in ("transitions", "messages"))
            process = secrets.token_hex(8)
            earlier = _earlier_processes(connection, process)
            files = HeldFiles(() if folder is None else (folder / name for name in _FILES))
            recovered = recover(connection)
            planned = reruns(connection)
            found = Opened(path, connection, lock, recovered, step, message, process, earlier, files, planned)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise UsageError(_unusable(path, error)) from None
        on_error.pop_all()
        return found


def _locked(folder: Path) -> FolderLock:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            folder.chmod(0o700)  # other users had access to it before
        return FolderLock(folder)
    except OSError as error:
        raise UsageError(_cannot_create(folder, error)) from None


def _connected(path: Path | None) -> sqlite3.Connection:
    try:
        if path is not None:
            # SQLite creates its other files with the same permissions.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        name = ":memory:" if path is None else path
        return sqlite3.connect(name, timeout=BUSY_WITHIN_S, isolation_level=None, cached_statements=256)
    except (OSError, sqlite3.Error) as error:
        raise UsageError(_cannot_create(path, error)) from None


def _earlier_processes(connection: sqlite3.Connection, process: str) -> tuple[str, ...]:
    """Return the earlier processes, and record this one before it starts any process."""
    with transaction(connection):
        earlier = connection.execute("SELECT process FROM processes ORDER BY seq").fetchall()
        connection.execute("INSERT INTO processes (process, began_at) VALUES (?, ?)", (process, utc_text()))
        forgotten = "DELETE FROM processes WHERE seq <= (SELECT max(seq) FROM processes) - ?"
        connection.execute(forgotten, (PROCESSES_KNOWN,))
    return tuple(name for (name,) in earlier)


def _cannot_create(path: Path | None, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else str(error)
    if isinstance(error, PermissionError):
        why = f"{why} for uid {os.getuid()}"
    return f"{path}: the journal cannot be created or opened: {why}: make it writable, or use another --state-dir"


def _unusable(path: Path | None, error: Exception) -> str:
    if path is not None and is_full(path.parent):
        return f"{path}: the journal cannot be opened: the disk is full: free some space, then start the runner again"
    if isinstance(error, sqlite3.OperationalError):
        return f"{path}: the journal cannot be opened: {error}: make it writable, or use another --state-dir"
    return (
        f"{path}: cannot be read as a journal: {error}: move it away (the runner then loses the history of its runs "
        "and the reports that are pending), or use another --state-dir"
    )
