"""A journal that cannot be opened names the reason and the remedy; an open one is private."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fsm_runner.errors import UsageError
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.schema import SCHEMA_VERSION
from tests.support.small_disk import needs_mount, small_disk

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534

OPEN = """
import os, sys
from pathlib import Path
from fsm_runner.errors import UsageError
from fsm_runner.journal.journal import Journal
if os.getuid() == 0:
    os.setuid(int(sys.argv[2]))
try:
    Journal(Path(sys.argv[1]))
except UsageError as error:
    print(error)
"""


AS_VERSION_1 = (
    "ALTER TABLE transitions DROP COLUMN provisional",
    "ALTER TABLE runs ADD COLUMN report_overrules INTEGER",
    "DROP TABLE workflows",
    "DROP TABLE workflow_visits",
    "DROP TABLE reruns",
    "DROP TABLE tree_sessions",
    "ALTER TABLE runs DROP COLUMN wait",
    "ALTER TABLE runs DROP COLUMN workspace",
    "ALTER TABLE runs DROP COLUMN usage",
    "DROP TABLE processes",
    "PRAGMA user_version=1",
)


async def written(folder: Path) -> Path:
    journal = Journal(folder)
    for number in range(200):
        journal.record_claim(f"run_{number}", "ses_1", None, "lnch_1", b"{}" * 100)
    await journal.aclose()
    return folder / "journal.sqlite"


def carry_out(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


def refusal(folder: Path) -> str:
    """Return the error of an opening, after which no descriptor is left open."""
    before = sorted(Path("/dev/fd").iterdir())
    with pytest.raises(UsageError) as refused:
        Journal(folder)
    assert sorted(Path("/dev/fd").iterdir()) == before
    return str(refused.value)


async def test_only_the_user_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "0123"
    journal = Journal(folder)
    journal.record_claim("run_1", "ses_1", None, "lnch_1", b"{}")
    await journal.flush()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert set(files) >= {"journal.sqlite", "journal.sqlite-wal", "lock"}
    assert set(files.values()) == {0o600}
    await journal.aclose()


async def test_it_has_the_settings_that_it_needs(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    connection = journal._flusher._writer._connection

    def read(name: str) -> object:
        return journal._flusher._thread.submit(lambda: connection.execute(f"PRAGMA {name}").fetchone()[0]).result()

    incremental, full, in_memory = 2, 2, 2
    assert read("journal_mode") == "wal"
    assert read("synchronous") == full
    assert read("auto_vacuum") == incremental
    assert read("temp_store") == in_memory
    assert read("journal_size_limit") == 4 * 1024 * 1024
    await journal.aclose()


async def test_a_file_that_is_not_a_database_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    file.write_bytes(b"not a database, but long enough to be looked at" * 100)
    content = file.read_bytes()
    assert refusal(tmp_path) == (
        f"{file}: cannot be read as a journal: file is not a database: move it away (the runner then loses the "
        "history of its runs and the reports that are pending), or use another --state-dir"
    )
    assert file.read_bytes() == content


async def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    file = await written(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    assert refusal(tmp_path).startswith(f"{file}: cannot be read as a journal: database disk image is malformed: move")


async def test_a_journal_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    file = await written(tmp_path)
    carry_out(file, f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    content = file.read_bytes()
    assert refusal(tmp_path) == (
        f"{file}: this journal was written by a newer version of fsm-runner (journal version "
        f"{SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}): "
        "use that version, or another --state-dir"
    )
    assert file.read_bytes() == content


async def test_a_journal_of_an_older_version_is_migrated(tmp_path: Path) -> None:
    file = await written(tmp_path)
    for statement in AS_VERSION_1:
        carry_out(file, statement)
    journal = Journal(tmp_path)
    assert len(journal.recovered.runs) == 200
    journal.record_usage("run_0", b'{"turns":1}')
    await journal.aclose()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("SELECT usage FROM runs WHERE run_id = 'run_0'").fetchone() == (b'{"turns":1}',)


@needs_mount
async def test_the_remedy_for_a_full_disk_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk.path / "state"
        journal = Journal(folder)
        journal.record_claim("run_1", "ses_1", None, "lnch_1", b"{}")
        await journal.aclose()
        disk.fill()
        assert "free some space" in refusal(folder)
        disk.free()
        journal = Journal(folder)
        assert [run.run_id for run in journal.recovered.runs] == ["run_1"]
        await journal.aclose()


async def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    carry_out(file, "CREATE TABLE letters (text TEXT)")
    content = file.read_bytes()
    assert refusal(tmp_path) == (
        f"{file}: is a database, but not a runner's journal: move it away, or use another --state-dir"
    )
    assert file.read_bytes() == content


async def test_an_interrupted_opening_is_completed(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").touch()
    await written(tmp_path)
    journal = Journal(tmp_path)
    assert len(journal.recovered.runs) == 200
    await journal.aclose()


async def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert refusal(tmp_path / "state" / "0123") == (
        f"{tmp_path}/state/0123: the journal cannot be created or opened: Not a directory: make it writable, or use "
        "another --state-dir"
    )


async def test_a_folder_in_the_way_of_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    file.mkdir()
    assert refusal(tmp_path).startswith(f"{file}: the journal cannot be created or opened: Is a directory: make it")


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o500)
    said = subprocess.run(
        [sys.executable, "-c", OPEN, str(folder / "0123"), str(NOBODY)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    uid = NOBODY if os.getuid() == 0 else os.getuid()
    assert said.stdout == (
        f"{folder}/0123: the journal cannot be created or opened: Permission denied for uid {uid}: "
        "make it writable, or use another "
        "--state-dir\n"
    )
