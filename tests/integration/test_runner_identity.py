"""Which journal a runner opens."""

from pathlib import Path

import pytest

from fsm_runner.assembly import assembled_runner
from fsm_runner.config import RunnerConfig
from fsm_runner.profiles import load_profile


async def journals_of(state_dir: Path, *urls: str) -> int:
    config = RunnerConfig(project_dir=state_dir.parent, state_dir=state_dir)
    for url in urls:
        async with assembled_runner(config, load_profile("echo"), url):
            pass
    return _journals_in(state_dir)


@pytest.mark.parametrize("written", ["http://127.0.0.1:9/", "http://127.0.0.1:9//"])
async def test_a_coordinator_is_the_same_however_its_url_ends(tmp_path: Path, written: str) -> None:
    assert await journals_of(tmp_path / "state", "http://127.0.0.1:9", written) == 1


async def test_another_coordinator_has_another_journal(tmp_path: Path) -> None:
    assert await journals_of(tmp_path / "state", "http://127.0.0.1:9", "http://127.0.0.1:10") == 2


def _journals_in(state_dir: Path) -> int:
    return len(list(state_dir.glob("*/journal.sqlite")))
