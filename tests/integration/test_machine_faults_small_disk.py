"""What a full disk does to a run's own work."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults
from tests.support.home import make_home
from tests.support.logs import log_lines
from tests.support.proxy import POLL
from tests.support.runner import System, open_system
from tests.support.script_archives import versions_of
from tests.support.scripts import script_bench, write_script
from tests.support.small_disk import SIZE_BYTES, SmallDisk, needs_mount, small_disk
from tests.support.watch import PATIENCE_S

FILLS_THE_DISK = """#!/bin/sh
head -c 4000000 /dev/zero > "$PWD/result"
"""
NO_SPACE = os.strerror(errno.ENOSPC)
DOWNLOAD = "/scripts/[^/]+/download"
LARGE_COMMENT = "#" * SIZE_BYTES


@pytest.fixture
def project_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Where the runs of `System.running` work."""
    with small_disk(tmp_path / "project") as disk:
        yield disk


@needs_mount
async def test_a_command_that_fills_the_workspace_fails_with_its_own_error(
    tmp_path: Path, project_disk: SmallDisk
) -> None:
    home = make_home(tmp_path / "home")
    (tmp_path / "home/executors/procedural/commands/fail").write_text(FILLS_THE_DISK)
    async with open_system(tmp_path) as system, system.running(home):
        for _ in range(2):
            failed = await system.end(await system.submit("fail"))
            assert failed.status == "failed"
            assert NO_SPACE in (failed.error or "")
        await system.completes()
        (project_disk.path / "result").unlink()
        await system.completes()


@needs_mount
async def test_a_script_for_which_there_is_no_room_fails_its_run(tmp_path: Path, project_disk: SmallDisk) -> None:
    project_disk.fill()
    async with script_bench(tmp_path, {"tidy": "echo '{}'"}) as system, system.running(make_home(tmp_path / "home")):
        failed = await system.end(await system.submit("run-tidy"))
        assert failed.status == "failed"
        assert "script `tidy`" in (failed.error or "")
        assert NO_SPACE in (failed.error or "")
        await system.completes()
        project_disk.free()
        await system.completes("run-tidy")


@needs_mount
async def test_the_earlier_version_of_a_script_stays_where_there_is_no_room_for_the_next(
    tmp_path: Path, project_disk: SmallDisk
) -> None:
    async with (
        script_bench(tmp_path, {"tidy": "echo '{\"version\": 1}'"}) as system,
        system.running(make_home(tmp_path / "home")),
    ):
        await system.completes("run-tidy")
        write_script(tmp_path / "scripts", "tidy", f"echo '{{\"version\": 2}}'\n{LARGE_COMMENT}")
        with log_lines() as lines:
            await update_is_tried(system, lines)
        assert [line for line in lines if NO_SPACE in line]
        assert await system.result(await system.completes("run-tidy")) == {"version": 1}
        assert [path.name for path in (project_disk.path / "scripts").glob("[!.]*")] == ["tidy"]
        assert len(versions_of(project_disk.path, "tidy")) == 1


async def update_is_tried(system: System, lines: list[str]) -> None:
    """Make the coordinator announce a new version. Return when the runner has logged the result."""

    def change(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "sync_scripts": ["tidy"]}

    system.proxy.fault("GET", POLL, faults.rewrite_run(change, times=1), times=None)
    async with asyncio.timeout(PATIENCE_S):
        while not any("was not changed" in line for line in lines):
            await system.completes()
