"""A log that cannot be written: a full disk, or a reader that has ended."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from tests.support.home import PROFILE, make_home
from tests.support.program import environment, finish
from tests.support.runner import System, open_system
from tests.support.small_disk import needs_mount, small_disk
from tests.support.watch import PATIENCE_S

REGISTER = "/runner/register"
FULL_DEVICE = Path("/dev/full")
RUNS_OF_A_BLOCK = 20
"""So many write more to the log than is left in the last block of its file."""
needs_full_device = pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full")


@asynccontextmanager
async def runner(folder: Path, system: System, stderr: int) -> AsyncIterator[Process]:
    """One that logs everything to this descriptor."""
    arguments = ("-v", "-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(folder / "state"))
    command = (sys.executable, "-m", "fsm_runner", *arguments)
    env = environment(folder / "home")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=env, stdin=DEVNULL, stdout=DEVNULL, stderr=stderr
    )
    try:
        await system.proxy.answered("POST", REGISTER)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def completes(system: System) -> None:
    run = await system.submit("say", text="no matter")
    await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")


async def exit_code(process: Process) -> int:
    process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(process.wait(), PATIENCE_S)


@needs_full_device
async def test_a_runner_whose_log_goes_to_a_full_device_works_as_ever(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    full = os.open(FULL_DEVICE, os.O_WRONLY)
    try:
        async with open_system(tmp_path) as system, runner(tmp_path, system, full) as process:
            await completes(system)
            await completes(system)
            assert await exit_code(process) == EXIT_OK
    finally:
        os.close(full)


async def test_a_runner_whose_log_has_lost_its_reader_works_as_ever(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    reader, writer = os.pipe()
    async with open_system(tmp_path) as system, runner(tmp_path, system, writer) as process:
        os.close(writer)
        await completes(system)
        os.close(reader)
        await completes(system)
        await completes(system)
        assert await exit_code(process) == EXIT_OK


@needs_mount
async def test_a_log_on_a_full_disk_says_later_what_is_missing(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    with small_disk(tmp_path / "logs") as disk, (disk.path / "log").open("ab") as log:
        async with open_system(tmp_path) as system, runner(tmp_path, system, log.fileno()) as process:
            disk.fill()
            for _ in range(RUNS_OF_A_BLOCK):
                await completes(system)
            disk.free()
            await completes(system)
            assert await exit_code(process) == EXIT_OK
        said = (disk.path / "log").read_text()
    assert "lines of this log could not be written: No space left on device" in said
    assert said.endswith("\n")
    assert "→ stopped" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "Loguru" not in said


@needs_full_device
async def test_bad_input_has_its_exit_code_where_nothing_can_be_said(tmp_path: Path) -> None:
    full = os.open(FULL_DEVICE, os.O_WRONLY)
    try:
        refused = await finish(tmp_path, environment(None), "--profile", "none", stderr=full)
    finally:
        os.close(full)
    assert refused.code == EXIT_USAGE
