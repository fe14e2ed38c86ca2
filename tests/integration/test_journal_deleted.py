"""A journal whose files are deleted under its process is not written as if nothing had happened."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_OK
from fsm_runner.journal import flusher
from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.journal.records import Transition
from tests.support.home import PROFILE, make_home
from tests.support.program import environment, program
from tests.support.runner import open_system, waiter
from tests.support.watch import PATIENCE_S

QUICK = Timings(heartbeat_interval_s=0.1, poll_timeout_s=0.2)
HEARTBEAT = "/runner/heartbeat"
FILES = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "lock"]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "folder")
    journal.record_transition(Transition("runner", "runner", "begun", None, "recovering", None, ""))
    await journal.flush()
    try:
        yield journal
    finally:
        await journal.aclose()


def replace(file: Path) -> None:
    file.rename(file.with_name("aside"))
    shutil.copy(file.with_name("aside"), file)


def delete_folder(file: Path) -> None:
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("harm", [Path.unlink, replace, delete_folder])
@pytest.mark.parametrize("name", FILES)
async def test_each_file_is_missed_by_the_next_write_and_named(
    tmp_path: Path, journal: Journal, name: str, harm: Callable[[Path], None]
) -> None:
    harm(tmp_path / "folder" / name)
    journal.record_session_start("ses_1", "rnr_1", b"{}")
    with pytest.raises(JournalUnwritable) as stuck:
        await journal.flush()
    assert " was deleted or replaced while this runner uses it" in str(stuck.value)
    assert harm is delete_folder or f"{tmp_path}/folder/{name} was deleted" in str(stuck.value)


async def test_it_is_missed_without_a_write_and_what_was_noted_is_written_when_it_is_back(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(flusher, "RETRY_INTERVAL_S", 0.01)
    changes: asyncio.Queue[str] = asyncio.Queue()
    journal._on_unwritable = lambda stuck: changes.put_nowait(str(stuck))
    journal._on_writable = lambda: changes.put_nowait("unstuck")
    journal.record_transition(Transition("runner", "runner", "recovered", "recovering", "registering", None, ""))
    folder, aside = tmp_path / "folder", tmp_path / "aside"
    folder.rename(aside)
    async with asyncio.timeout(PATIENCE_S):
        assert "was deleted or replaced" in await changes.get()
        journal.record_claim("run_1", "ses_1", None, "rnr_1", b"{}")
        aside.rename(folder)
        assert await changes.get() == "unstuck"
        await journal.flush()
    await journal.aclose()
    again = Journal(folder)
    assert [run.run_id for run in again.recovered.runs] == ["run_1"]
    await again.aclose()


async def test_a_runner_whose_state_directory_is_deleted_claims_nothing_and_reports_its_runs(
    tmp_path: Path,
) -> None:
    make_home(tmp_path / "home")
    state = tmp_path / "state"
    async with open_system(tmp_path, QUICK) as system, waiter(tmp_path) as command:
        flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--state-dir", str(state))
        async with program(tmp_path, environment(tmp_path / "home"), *flags) as runner:
            await runner.said("online")
            run = await system.submit("wait", **command.parameters)
            await command.started.pid()
            shutil.rmtree(state)
            command.gate.write_line()
            said = await runner.said("→ suspended")
            assert f"{state}" in said
            assert "was deleted or replaced while this runner uses it" in said
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed", 1)
            # The poll that is held at this moment may bring the first of them.
            _, left = await system.submit("say", text="hello"), await system.submit("say", text="hello")
            await system.proxy.answered("POST", HEARTBEAT, len(system.proxy.acknowledged("POST", HEARTBEAT)) + 2)
            assert (await system.api.run(left.run_id)).status == "pending"
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
