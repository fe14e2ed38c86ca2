"""The lock by which one process at a time writes a journal."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from fsm_runner.errors import UsageError

LOCK_FILE = "lock"
_PID_BYTES = 32


class FolderLock:
    """An exclusive lock on a folder. The system releases it when the process ends, for whatever reason."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder. Raises UsageError if another process has the lock, OSError if its file cannot be created."""
        self._descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, _PID_BYTES, 0).decode("ascii", "replace").strip() or "unknown"
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
        """Release the lock."""
        os.close(self._descriptor)
