"""However many scripts a coordinator names, they are brought in by a few at a time."""

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
    """In the client's place: each waits until all may go on, and then there is no such script."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Semaphore(0)

    async def script_archive(self, name: str) -> bytes:
        self.begun.append(name)
        async with self.may_end:
            raise Refused("no such script", 404)


def sync_from(downloads: Any, folder: Path) -> ScriptSync:
    return ScriptSync(downloads, folder)


async def test_a_few_are_brought_in_at_once_and_the_rest_in_turn(tmp_path: Path) -> None:
    downloads = Downloads()
    sync = sync_from(downloads, tmp_path)
    names = [f"script-{number}" for number in range(20)]
    sync.sync(names)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(downloads.begun) == CHANGES_AT_ONCE
    downloads.may_end.release()  # and so each after the one before it
    for name in names:
        with pytest.raises(Refused):
            await sync.ready(name)
    assert sorted(downloads.begun) == sorted([*names, *names])
    await sync.aclose()


async def test_what_is_too_many_is_left_as_it_is_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "CHANGES_LIMIT", 10)
    downloads = Downloads()
    sync = sync_from(downloads, tmp_path)
    with log_lines() as lines:
        sync.sync(f"script-{number}" for number in range(10))
        sync.remove(f"script-{number}" for number in itertools.count())
    assert lines == ["10 scripts wait to be changed; further ones stay as they are"]
    assert len(sync._changes) == 10
    await sync.aclose()


@pytest.mark.parametrize("list_name", ["stop_sessions", "sync_scripts", "remove_scripts"])
async def test_a_poll_that_names_too_many_is_no_answer(list_name: str) -> None:
    coordinator = RecordingCoordinator()
    async with serving(coordinator) as url, CoordinatorApi(url) as api:
        coordinator.answer = {list_name: ["a"] * POLL_NAMES_LIMIT}
        assert len(msgspec.structs.asdict(await api.poll("rnr_1", 1))[list_name]) == POLL_NAMES_LIMIT
        coordinator.answer = {list_name: ["a"] * (POLL_NAMES_LIMIT + 1)}
        with pytest.raises(Unreachable, match="not a coordinator's response"):
            await api.poll("rnr_1", 1)
