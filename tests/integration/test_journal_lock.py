"""One process at a time writes the journal of an identity."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.errors import UsageError
from fsm_runner.journal.journal import Journal
from tests.support.watch import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]

HOLD = """
import asyncio, sys
from pathlib import Path
from fsm_runner.journal.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]))
    journal.record_claim("run_1", "ses_1", None, "lnch_1", b"{}")
    await journal.flush()
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@asynccontextmanager
async def holder(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(folder), cwd=REPOSITORY, stdin=PIPE, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE_S) == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_second_process_is_refused_with_the_id_of_the_first(tmp_path: Path) -> None:
    async with holder(tmp_path) as process:
        with pytest.raises(UsageError) as refused:
            Journal(tmp_path)
    assert str(refused.value).startswith(
        f"{tmp_path}: another runner with this identity is running (process {process.pid}): stop it"
    )


async def test_it_is_taken_over_from_a_process_that_was_killed(tmp_path: Path) -> None:
    async with holder(tmp_path) as process:
        process.kill()
        await process.wait()
        journal = Journal(tmp_path)
        await journal.aclose()
    assert [run.run_id for run in journal.recovered.runs] == ["run_1"]


async def test_it_is_given_back_when_it_is_closed(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(UsageError, match=f"process {os.getpid()}"):
        Journal(tmp_path)
    await first.aclose()
    await Journal(tmp_path).aclose()


async def test_what_a_runner_starts_does_not_hold_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    child = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, close_fds=False)
    try:
        await journal.aclose()
        await Journal(tmp_path).aclose()
    finally:
        await child.communicate(b"")


async def test_other_identities_do_not_stand_in_its_way(tmp_path: Path) -> None:
    first = Journal(tmp_path / "one")
    second = Journal(tmp_path / "two")
    assert first.path != second.path
    await first.aclose()
    await second.aclose()
