"""The versions of scripts in a store: the present one of each, and those that runs still use.

`{store}/{name}` is a link to a folder below `{store}/.versions/{name}/`, so it goes from one version to the next in one
step. Whoever uses a version holds a shared lock on its folder, which ends with its process; one that nobody uses and
that is not the present one is removed with the next change.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# No script's name begins with a dot, so these can never be the folder of another one.
_VERSIONS = ".versions"
_LINK = ".link-"
_INCOMING = ".incoming-"


class VersionInUse:
    """A version that stays as long as this is not closed. `close` may be repeated."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        """Without links, so that it is this version's whatever comes after it."""
        self._descriptor = descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def use_version(folder: Path) -> VersionInUse | None:
    """The present version of the script whose place is `folder`; None where there is none. Raises OSError."""
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
    """Make what `fill` returns, a folder that it has made below the one it is given, the present version of the script
    whose place is `folder`. Where it raises, the earlier version stays. Raises OSError."""
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
    """Remove the script; those of its versions that are in use stay until they are not. Raises OSError."""
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
    if folder.is_dir() and not folder.is_symlink():  # made by hand; a folder cannot be replaced in one step
        _move_away(folder, version.parent)
    link.rename(folder)


def _move_away(folder: Path, versions: Path) -> None:
    versions.mkdir(parents=True, exist_ok=True)
    folder.rename(versions / secrets.token_hex(8))


def _complete(folder: Path) -> None:
    """What an interrupted `_point` has left."""
    link = _link(folder)
    if not os.path.lexists(link):
        return
    if os.path.lexists(folder) or not link.is_dir():
        link.unlink()
    else:
        link.rename(folder)


def _remove_unused(folder: Path) -> None:
    versions = _versions(folder)
    present = folder.resolve()
    with suppress(FileNotFoundError):
        for version in list(versions.iterdir()):
            if version.resolve() != present:
                _remove_unless_used(version)
    for emptied in (versions, versions.parent):
        with suppress(OSError):  # something is in it, or it is not there
            emptied.rmdir()


def _remove_unless_used(version: Path) -> None:
    # What cannot be removed now is removed by the next change: a run of that version may be writing into it.
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
    """One change at a time, also among the threads and processes of several runners with one project directory."""
    descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
