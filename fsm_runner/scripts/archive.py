"""Unpacks a script's archive, whose content is not trusted."""

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
"""Room for a member's header, its extended header, and the padding after its content."""
_READ_BYTES = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"

DEPTH_LIMIT = 50
"""The maximum nesting of folders."""
_SET_ID_BITS = 0o6000
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_EXECUTABLE_MODE = 0o755

_UNREADABLE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError)
"""The exceptions of tarfile for bytes that are not an archive."""


class BadArchive(Exception):
    """The archive is rejected. The message says why."""


def unpack(archive: bytes, name: str, target: Path) -> None:
    """Unpack the gzip tar `archive` into the empty folder `target`. Afterwards it contains only the folder `name`.

    A plain tar is accepted too, because the client decompresses a response with `Content-Encoding: gzip`.

    The archive may contain only regular files and folders below `{name}/`. Only their content and the owner's execute
    bit are used. Raises `BadArchive`, and OSError if a file cannot be written; both may leave files in `target`.
    """
    try:
        with (
            _decompressed(archive) as decompressed,
            tarfile.open(fileobj=_LimitedStream(decompressed), mode="r|") as tar,
        ):
            _unpack_members(tar, name, target)
    except _UNREADABLE as error:
        raise BadArchive(f"it is not a valid gzip tar: {error}") from error


def _decompressed(archive: bytes) -> BinaryIO | gzip.GzipFile:
    return gzip.GzipFile(fileobj=io.BytesIO(archive)) if archive.startswith(_GZIP_MAGIC) else io.BytesIO(archive)


def _unpack_members(tar: tarfile.TarFile, name: str, target: Path) -> None:
    names = _Names(name)
    remaining_bytes = UNPACKED_LIMIT_BYTES
    for count, member in enumerate(tar, start=1):
        if count > MEMBERS_LIMIT:
            raise BadArchive(f"it has more than {MEMBERS_LIMIT:,} members")
        relative = names.accept(member)
        if relative is None:
            continue
        path = target / relative
        if member.isdir():
            path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        else:
            path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            remaining_bytes -= _write(tar, member, path, remaining_bytes)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, limit_bytes: int) -> int:
    """Write the member's content to `path`, which must not exist, and return its size in bytes."""
    content = tar.extractfile(member)
    if content is None:
        raise BadArchive(f"{member.name!a} is not a regular file")
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
    """Checks the members' names: each is inside the script's folder, and no two are equal on any file system."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._seen: dict[str, tuple[PurePosixPath, bool]] = {}
        """By normalized name (case-folded, NFC): the original name, and whether it is a folder."""

    def accept(self, member: tarfile.TarInfo) -> PurePosixPath | None:
        """Return the member's path below the target, or None for the target itself."""
        path = PurePosixPath(member.name)
        quoted = ascii(member.name)
        if not (member.isreg() or member.isdir()):
            raise BadArchive(f"{quoted} is neither a regular file nor a folder")
        if not path.parts and member.isdir():
            return None
        if not member.name.isprintable():
            raise BadArchive(f"{quoted} has characters that are not allowed in file names")
        if member.mode & _SET_ID_BITS:
            raise BadArchive(f"{quoted} has the setuid or setgid bit")
        if len(path.parts) > DEPTH_LIMIT:
            raise BadArchive(f"{quoted[:80]} is nested deeper than {DEPTH_LIMIT} folders")
        if path.is_absolute() or ".." in path.parts or path.parts[:1] != (self._script,):
            raise BadArchive(f"{quoted} is not inside the folder {self._script}/")
        for folder in reversed(path.parents[:-1]):
            self._add(folder, is_folder=True, quoted=quoted)
        self._add(path, is_folder=member.isdir(), quoted=quoted)
        return path

    def _add(self, path: PurePosixPath, *, is_folder: bool, quoted: str) -> None:
        folded = unicodedata.normalize("NFC", str(path).casefold())
        if folded not in self._seen:
            self._seen[folded] = (path, is_folder)
            return
        earlier, was_folder = self._seen[folded]
        if earlier != path:
            raise BadArchive(f"{quoted} and {str(earlier)!a} are the same name on file systems that ignore case")
        if not (is_folder and was_folder):
            raise BadArchive(f"{quoted} occurs twice, or as both a file and a folder")


class _LimitedStream(io.RawIOBase):
    """Limits the size of the decompressed archive, because crafted headers can decompress to any size."""

    def __init__(self, source: BinaryIO | gzip.GzipFile) -> None:
        self._source = source
        self._remaining_bytes = UNPACKED_LIMIT_BYTES + MEMBERS_LIMIT * _HEADERS_PER_MEMBER_BYTES + tarfile.RECORDSIZE

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(_READ_BYTES if size < 0 else size)
        self._remaining_bytes -= len(chunk)
        if self._remaining_bytes < 0:
            raise _too_large()
        return chunk


def _too_large() -> BadArchive:
    return BadArchive(f"it unpacks to more than {UNPACKED_LIMIT_BYTES // 1024**2} MiB")
