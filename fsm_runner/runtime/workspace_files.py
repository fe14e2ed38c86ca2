"""The contents of files in a workspace, in a form that can be compared."""

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = b"repository"
"""The content of a folder that is a git repository."""
_CHUNK_BYTES = 1024 * 1024


class ReadingTooSlow(Exception):
    """The files cannot be read within the time limit, or the reading was cancelled."""


class FileReader:
    """Reads files in a thread. The workspace is hostile: a file may be a link, a pipe, endless, or change meanwhile."""

    def __init__(self, deadline_s: float) -> None:
        """`deadline_s`: a time of the monotonic clock."""
        self._deadline_s = deadline_s

    def cancel(self) -> None:
        """End the thread soon. It would otherwise delay the end of this program."""
        self._deadline_s = 0.0

    def contents_of(self, folder: Path, paths: Iterable[bytes]) -> list[bytes]:
        """Return a short text for each file, which is equal for equal types and contents. Blocks.

        `paths` are relative to `folder`. Raises `ReadingTooSlow`.
        """
        return [self._content_of(folder / os.fsdecode(path)) for path in paths]

    def _content_of(self, file: Path) -> bytes:
        self._check_time()
        try:
            status = os.lstat(file)
        except OSError as fault:  # it was deleted, or a folder above it may not be entered
            return b"error %d" % (fault.errno or 0)
        try:
            if stat.S_ISLNK(status.st_mode):
                return b"link " + os.fsencode(os.readlink(file))  # noqa: PTH115 - a Path would change it
            if stat.S_ISREG(status.st_mode):
                return (b"program " if status.st_mode & stat.S_IXUSR else b"file ") + self._hash_of(file)
        except OSError:
            # The file may not be read. These two change with its content.
            return b"closed %d %d" % (status.st_size, status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode) and os.path.lexists(file / ".git"):
            return REPOSITORY
        return b"other %o" % stat.S_IFMT(status.st_mode)

    def _hash_of(self, file: Path) -> bytes:
        digest = hashlib.blake2b(digest_size=32)
        # Since it was examined, it may have become a named pipe or a link.
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(opened, "rb", buffering=0) as content:
            while chunk := content.read(_CHUNK_BYTES):
                digest.update(chunk)
                self._check_time()
        return digest.digest()

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline_s:
            raise ReadingTooSlow
