"""Versions of scripts in a store: the current version of each, and older versions that runs still use.

`{store}/{name}` is a link to a folder below `{store}/.versions/{name}/`, so a new version replaces the old one
atomically. A process that uses a version holds a shared lock on its folder. Each change removes versions that are
neither current nor locked.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Names of scripts never begin with a dot, so these names cannot collide with a script.
_VERSIONS = ".versions"
_LINK = ".link-"
_INCOMING = ".incoming-"


class VersionInUse:
    """A version that is not removed until `close` is called. `close` can be called repeatedly."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        """The resolved folder of this version, which later versions do not change."""
        self._descriptor = descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def use_version(folder: Path) -> VersionInUse | None:
    """Return the current version of the script at `folder`, or None if there is none. Raises OSError."""
    if not folder.parent.is_dir():
        return None
    with _locked(folder.parent):
        _complete(folder)
        if not folder.is_dir():
            return None
        version = folder.resolve()
        descriptor = os.open(version, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return VersionInUse(version, descriptor)


def put_version(folder: Path, fill: Callable[[Path], Path]) -> None:
    """Replace the current version of the script at `folder`.

    `fill` gets an empty folder, and returns the folder of the new version, which it has created inside. If it raises an
    exception, the earlier version stays current. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent):
        _complete(folder)
        versions = _versions(folder)
        versions.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(8)
        incoming = versions / f"{_INCOMING}{token}"
        incoming.mkdir()
        try:
            fill(incoming).rename(versions / token)
        finally:
            _discard(incoming)
        _point(folder, versions / token)
        _remove_unused(folder)


def remove_versions(folder: Path) -> None:
    """Remove the script. Versions in use are removed by a later change. Raises OSError."""
    if not folder.parent.is_dir():
        return
    with _locked(folder.parent):
        for place in (_link(folder), folder):
            if place.is_dir() and not place.is_symlink():
                _move_away(place, _versions(folder))
            else:
                place.unlink(missing_ok=True)
        _remove_unused(folder)


def _versions(folder: Path) -> Path:
    return folder.with_name(_VERSIONS) / folder.name


def _link(folder: Path) -> Path:
    return folder.with_name(f"{_LINK}{folder.name}")


def _point(folder: Path, version: Path) -> None:
    link = _link(folder)
    link.unlink(missing_ok=True)
    link.symlink_to(version.relative_to(folder.parent))
    if folder.is_dir() and not folder.is_symlink():  # created by a user; a folder cannot be replaced atomically
        _move_away(folder, version.parent)
    link.rename(folder)


def _move_away(folder: Path, versions: Path) -> None:
    versions.mkdir(parents=True, exist_ok=True)
    folder.rename(versions / secrets.token_hex(8))


def _complete(folder: Path) -> None:
    """Complete or undo an interrupted `_point`."""
    link = _link(folder)
    if not os.path.lexists(link):
        return
    if os.path.lexists(folder) or not link.is_dir():
        link.unlink()
    else:
        link.rename(folder)


def _remove_unused(folder: Path) -> None:
    versions = _versions(folder)
    current = folder.resolve()
    with suppress(FileNotFoundError):
        for version in list(versions.iterdir()):
            if version.resolve() != current:
                _remove_unless_used(version)
    for emptied in (versions, versions.parent):
        with suppress(OSError):  # it is not empty or does not exist
            emptied.rmdir()


def _remove_unless_used(version: Path) -> None:
    # If the removal fails, for example because a run writes to the folder, the next change repeats it.
    with suppress(OSError):
        if version.is_symlink() or not version.is_dir():
            version.unlink()
            return
        descriptor = os.open(version, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(version)
        finally:
            os.close(descriptor)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Lock the store against other threads, and against other runners with the same project directory."""
    descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
