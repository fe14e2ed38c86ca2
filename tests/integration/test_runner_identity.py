"""Which journal a runner opens, and what it takes for its own."""

from pathlib import Path

import pytest

from fsm_runner.app.build import assembled_runner
from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import RunnerConfig
from tests.support.home import PROFILE, make_home
from tests.support.program import environment, program
from tests.support.runner import open_system, waiter


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


async def test_another_runner_of_its_identity_ends_nothing_that_is_at_work(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with open_system(tmp_path) as system, waiter(tmp_path) as held:
        flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--state-dir")
        env = environment(tmp_path / "home")
        async with program(tmp_path, env, *flags, str(tmp_path / "one"), "--grace-period", "60") as one:
            await one.said("online")
            run = await system.submit("wait", **held.parameters)
            await held.started.pid()
            async with program(tmp_path, env, *flags, str(tmp_path / "other")) as other:
                # It has swept before it registers.
                await other.said("counts another runner of this identity as online")
            held.gate.write_line()
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
            one.terminate()
            assert await one.exit_code() == 0


def _journals_in(state_dir: Path) -> int:
    return len(list(state_dir.glob("*/journal.sqlite")))
