"""Detects a full disk, and open files that were deleted: a process would continue to write to a file without a name."""

import os
from collections.abc import Iterable
from pathlib import Path

FREE_BYTES = 64 * 1024
"""A disk with less free space counts as full, because SQLite then often reports an I/O error instead."""

CHECK_INTERVAL_S = 5.0
"""The interval of checks by a process that has nothing to write."""


def is_full(folder: Path) -> bool:
    """Return whether the disk of this folder is full; False if that is unknown."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < FREE_BYTES


class HeldFiles:
    """The identities of open files. A watched file must stay open, because no other file gets its inode meanwhile."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Paths that do not exist are not watched."""
        self._identities = {path: identity for path in paths if (identity := _identity(path)) is not None}

    def first_missing(self) -> Path | None:
        """Return the first file that was deleted, moved or replaced; None: there is none."""
        return next((path for path, identity in self._identities.items() if _identity(path) != identity), None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
