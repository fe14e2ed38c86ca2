"""A disk that is really full: a small file system where one can be mounted, and otherwise a limit on files' size."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from fsm_runner.journal.journal import Journal
from tests.support.watch import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]
BALLAST_BYTES = 512 * 1024

RUN_INTO_THE_END = """
import asyncio, json, os, resource, signal, sys
from pathlib import Path
from fsm_runner.journal.journal import Journal, JournalUnwritable

folder, ballast, limit_bytes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def limit_files(size_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size_bytes is None else size_bytes, hard))

def content(number):
    return bytes([number % 256]) * 4_000

async def main():
    journal = Journal(folder)
    stuck, unstuck = [], asyncio.Event()
    journal._on_unwritable = lambda why: stuck.append(str(why))
    journal._on_writable = unstuck.set
    if limit_bytes:
        limit_files(limit_bytes)
    count, raised = 0, None
    while raised is None:
        journal.store_message("ses_1", content(count))
        count += 1
        try:
            await journal.flush()
        except JournalUnwritable as error:
            raised = str(error)
    for _ in range(10):
        journal.store_message("ses_1", content(count))
        count += 1
    ballast.unlink()
    if limit_bytes:
        limit_files(None)
    async with asyncio.timeout(60):
        await unstuck.wait()
    await journal.flush()
    print(json.dumps({"count": count, "raised": raised, "stuck": stuck, "at_the_end": str(journal.unwritable)}))
    os._exit(0)  # what is on disk is there without closing

asyncio.run(main())
"""


class Disk(NamedTuple):
    folder: Path
    why: str
    limit_bytes: int
    """Of each file; 0: the disk has its own."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    mount = shutil.which("mount")
    tmpfs = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if mount is not None and subprocess.run(tmpfs, capture_output=True).returncode == 0:
        try:
            yield Disk(tmp_path, "database or disk is full (SQLITE_FULL)", 0)
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)
    else:
        yield limited(tmp_path)


def limited(folder: Path) -> Disk:
    return Disk(folder, "disk I/O error (SQLITE_IOERR_WRITE)", BALLAST_BYTES)


async def assert_it_goes_on_when_there_is_space(disk: Disk) -> None:
    folder, ballast = disk.folder / "0123", disk.folder / "ballast"
    ballast.write_bytes(b"\0" * BALLAST_BYTES)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", RUN_INTO_THE_END, str(folder), str(ballast), str(disk.limit_bytes)),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    received = json.loads(out)
    file = folder / "journal.sqlite"
    expected = f"the journal {file} cannot be written: {disk.why}"
    assert received == {"count": received["count"], "raised": expected, "stuck": [expected], "at_the_end": "None"}
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    await assert_all_are_there(folder, received["count"])


async def assert_all_are_there(folder: Path, count: int) -> None:
    journal = Journal(folder)
    await journal.aclose()
    contents = [message.content for message in journal.recovered.messages]
    assert contents == [bytes([number % 256]) * 4_000 for number in range(count)]
    assert count > 20


async def test_on_a_full_disk_nothing_is_lost_and_writing_continues_when_there_is_space(disk: Disk) -> None:
    await assert_it_goes_on_when_there_is_space(disk)


async def test_at_the_limit_of_a_files_size_nothing_is_lost(tmp_path: Path) -> None:
    await assert_it_goes_on_when_there_is_space(limited(tmp_path))
