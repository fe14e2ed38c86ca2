"""A runner installs, updates and removes scripts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults
from tests.support.home import make_home
from tests.support.proxy import POLL
from tests.support.runner import System, running
from tests.support.scripts import script_bench, write_script

DOWNLOAD = "/scripts/[^/]+/download"


async def test_scripts_are_installed_at_registration(tmp_path: Path) -> None:
    async with (
        script_bench(tmp_path, {"tidy": 'printf \'{"got": "%s"}\' "$2"'}) as system,
        system.running(make_home(tmp_path / "home")),
    ):
        run = await system.completes("run-tidy", what="a broom")
        assert await system.result(run) == {"got": "a broom"}
        assert (tmp_path / "project" / "scripts" / "tidy" / "run.sh").is_file()


async def test_a_run_waits_for_its_script(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with script_bench(tmp_path, {"tidy": "echo '{}'"}) as system:
        system.proxy.fault("GET", DOWNLOAD, faults.hold(released))
        async with system.running(make_home(tmp_path / "home")):
            run = await system.submit("run-tidy")
            await system.state(run, "preparing_workspace")
            await system.completes()
            assert system.states[run.run_id][-1] == "preparing_workspace"
            released.set()
            assert (await system.end(run)).status == "completed"


async def test_a_run_after_an_update_uses_the_new_version(tmp_path: Path) -> None:
    async with (
        script_bench(tmp_path, {"tidy": "echo '{\"version\": 1}'"}) as system,
        system.running(make_home(tmp_path / "home")),
    ):
        assert await system.result(await system.completes("run-tidy")) == {"version": 1}
        write_script(tmp_path / "scripts", "tidy", "echo '{\"version\": 2}'")
        await _poll_returns(system, sync_scripts=["tidy"])
        assert await system.result(await system.completes("run-tidy")) == {"version": 2}


async def test_a_script_is_removed(tmp_path: Path) -> None:
    async with (
        script_bench(tmp_path, {"tidy": "echo '{}'", "sweep": "echo '{}'"}) as system,
        system.running(make_home(tmp_path / "home")),
    ):
        await system.completes("run-tidy")
        await system.completes("run-sweep")
        await _poll_returns(system, remove_scripts=["tidy"])
        system.proxy.fault("GET", DOWNLOAD, faults.status(404), times=None)
        failed = await system.end(await system.submit("run-tidy"))
        assert failed.status == "failed"
        assert "tidy" in (failed.error or "")
        assert not (tmp_path / "project" / "scripts" / "tidy").exists()
        await system.completes("run-sweep")


async def test_a_failed_download_is_retried(tmp_path: Path) -> None:
    async with script_bench(tmp_path, {"tidy": "echo '{}'"}) as system:
        for kind in (faults.status(500), faults.reset(), faults.status(503)):
            system.proxy.fault("GET", DOWNLOAD, kind)
        async with system.running(make_home(tmp_path / "home")):
            await system.completes("run-tidy")


async def test_a_login_page_instead_of_an_archive_does_not_change_the_script(tmp_path: Path) -> None:
    async with (
        script_bench(tmp_path, {"tidy": "echo '{\"version\": 1}'"}) as system,
        system.running(make_home(tmp_path / "home")),
    ):
        await system.completes("run-tidy")
        system.proxy.fault("GET", DOWNLOAD, faults.html())
        await _poll_returns(system, sync_scripts=["tidy"])
        assert await system.result(await system.completes("run-tidy")) == {"version": 1}


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "", ".hidden", "a/b", "a\\b", "a\nb", "x" * 300])
async def test_an_evil_script_name_changes_nothing(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as (system, runner):
        before = _everything_below(tmp_path)
        await _poll_returns(system, sync_scripts=[name], remove_scripts=[name])
        await system.completes()
        assert _everything_below(tmp_path) == before
        assert system.proxy.calls_for("GET", "/scripts/.*") == []
        assert runner.actor.state == "online"


async def _poll_returns(system: System, **fields: list[str]) -> None:
    """Add these fields to poll responses, and wait until the runner has got one and completed a run."""
    returned = asyncio.Event()

    def change(body: dict[str, Any]) -> dict[str, Any]:
        returned.set()
        return {**body, **fields}

    system.proxy.fault("GET", POLL, faults.rewrite_run(change), times=None)
    # A poll that was already held is not rewritten.
    await system.completes()
    if not returned.is_set():
        await system.completes()


def _everything_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))
