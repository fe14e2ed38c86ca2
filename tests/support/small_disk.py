"""A disk that is small, where it is permitted to mount one."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SIZE_BYTES = 1024 * 1024
BLOCK_BYTES = 4096


class SmallDisk:
    """A file system of 1 MiB at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """To the last byte."""
        with self._filler.open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(BLOCK_BYTES))
        with pytest.raises(OSError) as full, (self.path / "probe").open("wb", buffering=0) as probe:
            probe.write(b"x")
        assert full.value.errno == errno.ENOSPC
        (self.path / "probe").unlink(missing_ok=True)

    def free(self) -> None:
        self._filler.unlink()


def may_mount() -> bool:
    if sys.platform != "linux" or os.getuid() != 0:
        return False
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return tried.returncode == 0


@contextmanager
def small_disk(path: Path, *options: str) -> Iterator[SmallDisk]:
    """`options`: of its mount, such as `noexec`."""
    path.mkdir()
    all_options = ",".join([f"size={SIZE_BYTES}", *options])
    subprocess.run(["mount", "-t", "tmpfs", "-o", all_options, "none", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


needs_mount = pytest.mark.skipif(not may_mount(), reason="needs the right to mount a file system")
