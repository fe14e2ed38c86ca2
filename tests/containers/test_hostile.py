"""The hostile executor in a container, as the runner's own user there, who is not root."""

from pathlib import Path

import psutil

from tests.support.containers import (
    LOCKED_DOWN_FROM_ROOT,
    RUNNER,
    at_work,
    engine,
    own_image,
)
from tests.support.fifo import Fifo
from tests.support.hostility import HOSTILE, LAST_ATTEMPT, VARIABLES, documented, outcomes_of, stopped, victim_of


async def test_an_executor_of_the_same_user(tmp_path: Path) -> None:
    image = own_image(tmp_path, f"#!/usr/bin/env python3\n{HOSTILE}", "true")
    workspace = tmp_path / "workspace"
    (workspace / "other").mkdir(parents=True)
    (workspace / "other" / "private").write_text("private")
    variables = [word for name, value in VARIABLES.items() for word in ("--env", f"{name}={value}")]
    options = (*LOCKED_DOWN_FROM_ROOT, *variables, "--volume", f"{workspace}:/workspace")
    async with Fifo(workspace / "waiting") as waiting, at_work(tmp_path, {}, image, *options) as (system, running):
        for path in (workspace, *workspace.rglob("*")):
            path.chmod(0o777)
        victim = await victim_of(system, Path("/workspace/waiting"), Path("/workspace/other"))
        init = int((await engine("inspect", "--format", "{{.State.Pid}}", running.name)).stdout)
        outcomes = await outcomes_of(
            system,
            victim,
            psutil.Process(init).children()[0],
            runner_pid=int((await running.execute("sh", "-c", f"echo {RUNNER}")).stdout),
            other_pid=await waiting.pid(),
            other_workspace="/workspace/other",
            state_dir="/var/lib/fsm-runner",
        )
        recovered = outcomes[LAST_ATTEMPT].removeprefix("pid ")
        assert (await running.execute("test", "-e", f"/proc/{recovered}")).code != 0
    expected = documented("same")
    assert expected.pop(LAST_ATTEMPT)
    assert stopped(outcomes) == expected, outcomes
