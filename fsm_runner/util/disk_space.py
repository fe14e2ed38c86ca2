"""Whether a disk has room for a database."""

import os
from pathlib import Path

FREE_BYTES = 64 * 1024
"""A disk with less free space counts as full: SQLite then reports an I/O error as often as a full disk."""


def is_full(folder: Path) -> bool:
    """Whether the disk of this folder is full; False where that cannot be determined."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < FREE_BYTES
