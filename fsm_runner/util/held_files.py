"""Files that a process keeps open. When one is deleted, the process goes on writing to a file that has no name."""

from collections.abc import Iterable
from pathlib import Path

LOOK_EACH_S = 5.0
"""How often a process that has nothing to write looks whether its files are still in their places."""


class HeldFiles:
    """Files as they were when they were opened. Each has to stay open while it is watched: until it is closed, no other
    file gets its inode."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Those that do not exist are not watched."""
        found = {path: _identity(path) for path in paths}
        self._identities = {path: identity for path, identity in found.items() if identity is not None}

    def first_missing(self) -> Path | None:
        """The first file that was deleted, moved or replaced; None: all are in their places."""
        return next((path for path, identity in self._identities.items() if _identity(path) != identity), None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
