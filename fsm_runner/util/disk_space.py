"""Detects a full disk."""

import os
from pathlib import Path

FREE_BYTES = 64 * 1024
"""A disk with less free space counts as full, because SQLite then often reports an I/O error instead."""


def is_full(folder: Path) -> bool:
    """Return whether the disk of this folder is full; False if that is unknown."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < FREE_BYTES
