"""An executor that tries everything from inside: what stops it is what docs/security.md says."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.support.command_executor import PROFILE, command_home
from tests.support.fifo import Fifo
from tests.support.hostility import HOSTILE, LAST_ATTEMPT, VARIABLES, documented, outcomes_of, stopped, victim_of
from tests.support.program import environment, program
from tests.support.runner import open_system

pytestmark = pytest.mark.linux(reason="/proc")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Every user may enter it."""
    with TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


async def attempted(folder: Path, interpreter: str, *flags: str) -> dict[str, str]:
    """The outcomes of all attempts at a runner with these flags."""
    command_home(folder / "home", f"#!{interpreter} -I\n{HOSTILE}")
    workspace = folder / "other workspace"
    workspace.mkdir()
    for each in (folder / "project", workspace):
        each.mkdir(exist_ok=True)
        each.chmod(0o777)
    (workspace / "private").write_text("private")
    state = ("--state-dir", str(folder / "state"), "--grace-period", "0")
    async with open_system(folder) as system, Fifo(folder / "waiting") as waiting:
        places = ("--coordinator-url", system.proxy.url, "--project-dir", str(folder / "project"))
        arguments = ("--profile", PROFILE, *places, *state, *flags)
        waiting.path.chmod(0o666)
        async with program(folder, environment(folder / "home", **VARIABLES), *arguments) as runner:
            await runner.said("online")
            victim = await victim_of(system, waiting.path, workspace)
            outcomes = await outcomes_of(
                system,
                victim,
                psutil.Process(runner.process.pid),
                runner_pid=runner.process.pid,
                other_pid=await waiting.pid(),
                other_workspace=str(workspace),
                state_dir=str(folder / "state"),
            )
            runner.terminate()
            assert await runner.exit_code() == 0
    return outcomes


async def test_an_executor_of_the_same_user(tmp_path: Path) -> None:
    outcomes = await attempted(tmp_path, sys.executable)
    assert not psutil.pid_exists(int(outcomes[LAST_ATTEMPT].removeprefix("pid ")))
    expected = documented("same")
    assert expected.pop(LAST_ATTEMPT)
    if os.getuid() == 0:  # nothing is hidden from root
        expected |= {"runner-environment": False, "runner-memory": False}
    assert stopped(outcomes) == expected, outcomes


SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
@pytest.mark.skipif(SYSTEM_PYTHON is None, reason="there is no Python that every user may start")
async def test_an_executor_of_another_user(open_folder: Path) -> None:
    outcomes = await attempted(open_folder, SYSTEM_PYTHON or "", "--run-as", "nobody")
    assert not psutil.pid_exists(int(outcomes[LAST_ATTEMPT].removeprefix("pid ")))
    expected = documented("other")
    assert expected.pop(LAST_ATTEMPT)
    assert stopped(outcomes) == expected, outcomes
