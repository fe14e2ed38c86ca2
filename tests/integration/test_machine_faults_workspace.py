"""Project directories in which a run cannot work: it fails and says why, and what to do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_OK
from tests.support.rights import open_place, runner_uid, runner_without_rights
from tests.support.runner import System, open_system
from tests.support.small_disk import may_mount

pytestmark = pytest.mark.linux(reason="users and mounts of Linux")


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as folder:
        yield folder


async def reason(system: System, project_dir: Path) -> str:
    """Return the reported error of a run with this project directory."""
    run = await system.submit_in(str(project_dir), "say", text="no matter")
    call = await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
    error: str = call.json["error"]
    return error


async def completes(system: System, project_dir: Path) -> None:
    run = await system.submit_in(str(project_dir), "say", text="no matter")
    await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")


async def test_each_error_names_the_reason_and_the_runner_continues(place: Path) -> None:
    missing, file, closed = place / "missing", place / "file", place / "closed"
    file.touch()
    closed.mkdir(mode=0o700)
    if os.getuid() != 0:
        closed.chmod(0o000)
    async with open_system(place) as system, runner_without_rights(place, system) as runner:
        none = f"project directory {missing}: there is no such directory on this runner"
        assert await reason(system, missing) == none
        assert await reason(system, file) == f"project directory {file}: it is a file, not a directory, on this runner"
        denied = (
            f"Permission denied on workspace {closed}: the runner (uid {runner_uid()}) may not read, write and enter"
        )
        said = await reason(system, closed)
        assert said.startswith(denied)
        assert f" {closed}`" in said
        missing.mkdir(mode=0o777)
        missing.chmod(0o777)
        await completes(system, missing)
        closed.chmod(0o777)
        await completes(system, closed)
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount a file system")
async def test_a_read_only_file_system_is_named(place: Path) -> None:
    read_only = place / "read-only"
    read_only.mkdir()
    mounted = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"', str(read_only))
    async with open_system(place) as system, runner_without_rights(place, system, mounted):
        said = await reason(system, read_only)
        assert said.startswith(f"Permission denied on workspace {read_only}: ")
        assert said.endswith("may not write to it: its file system is read-only; mount it writable")
        await completes(system, place / "project")
