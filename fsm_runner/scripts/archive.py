"""Unpacks a script's archive, and believes nothing that it says."""

import gzip
import io
import tarfile
import unicodedata
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

MEMBERS_LIMIT = 1_000
UNPACKED_LIMIT_BYTES = 64 * 1024 * 1024
_HEADERS_PER_MEMBER_BYTES = 8 * tarfile.BLOCKSIZE
"""A member's header, the extended header before it, and the padding after its content."""
_READ_BYTES = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"

DEPTH_LIMIT = 50
"""As many folders may lie in one another."""
_RIGHTS_OF_OTHERS = 0o6000
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_EXECUTABLE_MODE = 0o755

_UNREADABLE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError)
"""What tarfile raises for bytes that are no archive."""


class BadArchive(Exception):
    """An archive that is refused. Its text says why."""


def unpack(archive: bytes, name: str, target: Path) -> None:
    """Unpacks the gzip tar `archive` into the empty folder `target`, which then holds the one folder `name`.

    A plain tar is accepted too: if a server labels the archive `Content-Encoding: gzip`, the client has unpacked it.

    Only plain files and folders below `{name}/` are taken, and of them only content and the owner's x bit.
    Raises `BadArchive`, and OSError when something cannot be written; both may leave a part in `target`.
    """
    try:
        with (
            _unzipped(archive) as unzipped,
            tarfile.open(fileobj=_LimitedStream(unzipped), mode="r|") as tar,
        ):
            _unpack_members(tar, name, target)
    except _UNREADABLE as error:
        raise BadArchive(f"what came is no sound gzip tar: {error}") from error


def _unzipped(archive: bytes) -> BinaryIO | gzip.GzipFile:
    return gzip.GzipFile(fileobj=io.BytesIO(archive)) if archive.startswith(_GZIP_MAGIC) else io.BytesIO(archive)


def _unpack_members(tar: tarfile.TarFile, name: str, target: Path) -> None:
    names = _Names(name)
    left_bytes = UNPACKED_LIMIT_BYTES
    for count, member in enumerate(tar, start=1):
        if count > MEMBERS_LIMIT:
            raise BadArchive(f"it holds more than {MEMBERS_LIMIT:,} members")
        relative = names.accept(member)
        if relative is None:
            continue
        path = target / relative
        if member.isdir():
            path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        else:
            path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            left_bytes -= _write(tar, member, path, left_bytes)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, limit_bytes: int) -> int:
    """Writes the member's content to `path`, which must be new; how many bytes it had."""
    content = tar.extractfile(member)
    if content is None:
        raise BadArchive(f"{member.name!a} is no plain file")
    written = 0
    with content, path.open("xb") as file:
        while chunk := content.read(_READ_BYTES):
            written += len(chunk)
            if written > limit_bytes:
                raise _too_large()
            file.write(chunk)
    path.chmod(_EXECUTABLE_MODE if member.mode & 0o100 else _FILE_MODE)
    return written


class _Names:
    """The members' names so far: where each may be put, and whether two would be one on some file system."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._seen: dict[str, tuple[PurePosixPath, bool]] = {}
        """By a form that ignores case and composition: the name as it was, and whether it is a folder."""

    def accept(self, member: tarfile.TarInfo) -> PurePosixPath | None:
        """The member's path below the target; None for the folder above all others, which is there already."""
        path = PurePosixPath(member.name)
        shown = ascii(member.name)
        if not (member.isreg() or member.isdir()):
            raise BadArchive(f"{shown} is neither a plain file nor a folder")
        if not path.parts and member.isdir():
            return None
        if not member.name.isprintable():
            raise BadArchive(f"{shown} holds characters that no file name should")
        if member.mode & _RIGHTS_OF_OTHERS:
            raise BadArchive(f"{shown} is to run with the rights of others (setuid or setgid)")
        if len(path.parts) > DEPTH_LIMIT:
            raise BadArchive(f"{shown[:80]} lies deeper than {DEPTH_LIMIT} folders")
        if path.is_absolute() or ".." in path.parts or path.parts[:1] != (self._script,):
            raise BadArchive(f"{shown} is not inside of the folder {self._script}/")
        for folder in reversed(path.parents[:-1]):
            self._note(folder, is_folder=True, shown=shown)
        self._note(path, is_folder=member.isdir(), shown=shown)
        return path

    def _note(self, path: PurePosixPath, *, is_folder: bool, shown: str) -> None:
        folded = unicodedata.normalize("NFC", str(path).casefold())
        if folded not in self._seen:
            self._seen[folded] = (path, is_folder)
            return
        earlier, was_folder = self._seen[folded]
        if earlier != path:
            raise BadArchive(f"{shown} and {str(earlier)!a} are one name where case does not count")
        if not (is_folder and was_folder):
            raise BadArchive(f"{shown} is there twice, or is both a file and a folder")


class _LimitedStream(io.RawIOBase):
    """The unzipped archive, up to as much as a sound one can have: its headers can be made to unpack to any size."""

    def __init__(self, source: BinaryIO | gzip.GzipFile) -> None:
        self._source = source
        self._left_bytes = UNPACKED_LIMIT_BYTES + MEMBERS_LIMIT * _HEADERS_PER_MEMBER_BYTES + tarfile.RECORDSIZE

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(_READ_BYTES if size < 0 else size)
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise _too_large()
        return chunk


def _too_large() -> BadArchive:
    return BadArchive(f"it unpacks to more than {UNPACKED_LIMIT_BYTES // 1024**2} MiB")
