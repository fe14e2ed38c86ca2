"""Script changes run a few at a time, however many scripts a coordinator names."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import Refused, Unreachable
from fsm_runner.coordinator_client.policy import POLL_NAMES_LIMIT
from fsm_runner.scripts import sync as sync_module
from fsm_runner.scripts.sync import CHANGES_AT_ONCE, ScriptSync
from tests.support.gateway import RecordingCoordinator
from tests.support.logs import log_lines
from tests.support.serving import serving


class Downloads:
    """A client whose downloads wait for a permit and then fail with 404."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Semaphore(0)

    async def script_archive(self, name: str) -> bytes:
        self.begun.append(name)
        async with self.may_end:
            raise Refused("no such script", 404)


def sync_from(downloads: Any, folder: Path) -> ScriptSync:
    return ScriptSync(downloads, folder)


async def test_only_a_few_scripts_are_installed_at_once(tmp_path: Path) -> None:
    downloads = Downloads()
    sync = sync_from(downloads, tmp_path)
    names = [f"script-{number}" for number in range(20)]
    sync.sync(names)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(downloads.begun) == CHANGES_AT_ONCE
    downloads.may_end.release()  # one permit, so one download at a time
    for name in names:
        with pytest.raises(Refused):
            await sync.ready(name)
    assert sorted(downloads.begun) == sorted([*names, *names])
    await sync.aclose()


async def test_changes_beyond_the_limit_are_dropped_with_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "CHANGES_LIMIT", 10)
    downloads = Downloads()
    sync = sync_from(downloads, tmp_path)
    with log_lines() as lines:
        sync.sync(f"script-{number}" for number in range(10))
        sync.remove(f"script-{number}" for number in itertools.count())
    assert lines == ["10 script changes are pending; further ones are dropped"]
    assert len(sync._changes) == 10
    await sync.aclose()


@pytest.mark.parametrize("list_name", ["stop_sessions", "sync_scripts", "remove_scripts"])
async def test_a_poll_response_with_too_many_names_is_invalid(list_name: str) -> None:
    coordinator = RecordingCoordinator()
    async with serving(coordinator) as url, CoordinatorApi(url) as api:
        coordinator.answer = {list_name: ["a"] * POLL_NAMES_LIMIT}
        assert len(msgspec.structs.asdict(await api.poll("rnr_1", 1))[list_name]) == POLL_NAMES_LIMIT
        coordinator.answer = {list_name: ["a"] * (POLL_NAMES_LIMIT + 1)}
        with pytest.raises(Unreachable, match="not a coordinator's response"):
            await api.poll("rnr_1", 1)
