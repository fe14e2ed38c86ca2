"""The runner has few open files left: it claims no further run until there are enough again."""

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.app.health import SOCKET_FILE, query_all
from fsm_runner.app.local_socket import sockets
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from fsm_runner.process.limits.open_files import MOST_DESCRIPTORS, OWN_DESCRIPTORS
from fsm_runner.protocol.wire import RunRequest
from tests.support.crash.journal_files import read_journal
from tests.support.home import PROFILE, make_home
from tests.support.program import Program, environment, program
from tests.support.proxy import POLL
from tests.support.runner import System, open_system, waiter

pytestmark = pytest.mark.linux(reason="the test sets a limit of another process")

REGISTER = "/runner/register"
QUICK = Timings(poll_timeout_s=0.3)
"""A poll that is held when descriptors get short may bring one more run, so it is not held for long."""
LOOKS, LOOK_INTERVAL_S = 25, 0.02
ROOM = 9
"""For one run: 8 have to be left before it is claimed, and fewer are left while it is at work."""


def descriptors_of(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def lasting_descriptors_of(pid: int) -> int:
    """Return the fewest descriptors within a while: the calls of the start hold some for a moment."""
    fewest = descriptors_of(pid)
    for _ in range(LOOKS):
        await asyncio.sleep(LOOK_INTERVAL_S)
        fewest = min(fewest, descriptors_of(pid))
    return fewest


@asynccontextmanager
async def runner_with_room_for_one(
    folder: Path, system: System, *flags: str, profile: str = PROFILE
) -> AsyncIterator[Program]:
    """The profile is one of the folder `home`, or a bundled one where there is no such folder."""
    home = folder / "home"
    arguments = ("-x", profile, "-c", system.proxy.url, "--state-dir", str(folder / "state"), *flags)
    async with program(folder, environment(home if home.exists() else None), *arguments) as runner:
        await system.proxy.seen("GET", POLL)
        pid = runner.process.pid
        wanted = await lasting_descriptors_of(pid) + ROOM
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (2 * (wanted + OWN_DESCRIPTORS), hard))
        yield runner


async def test_no_further_run_is_claimed_before_one_has_ended(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with (
        open_system(tmp_path, QUICK) as system,
        waiter(tmp_path) as command,
        runner_with_room_for_one(tmp_path, system) as runner,
    ):
        first = await system.submit("wait", **command.parameters)
        await command.started.pid()
        assert "8 reserved for runs that have not started their process yet" in await runner.said("→ saturated")
        polls = system.proxy.calls_for("GET", POLL)
        await system.proxy.wait_for(lambda: polls[-1].answered_at is not None, "the end of the last poll")
        [health] = (await query_all(sockets(tmp_path / "state", SOCKET_FILE))).values()
        assert (str(health), health.is_healthy) == ("saturated, 1 run held", True)
        second = await system.submit("say", text="second")
        assert (await system.api.run(second.run_id)).status == "pending"
        command.gate.write_line()
        for run in (first, second):
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert not [line for line in runner.lines if "ERROR" in line or "Traceback" in line]
    states = [step.target for step in read_journal(tmp_path / "state").steps if step.machine == "runner"]
    assert states[:4] == ["recovering", "registering", "online", "saturated"]


async def test_commands_that_exceed_their_time_give_their_descriptors_back(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with (
        open_system(tmp_path, QUICK) as system,
        runner_with_room_for_one(tmp_path, system, "--run-timeout", "0.05") as runner,
    ):
        runs = [await system.submit("hang") for _ in range(5)]
        for run in runs:
            report = await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
            assert "not done within the time limit of 0.05 s" in report.json["error"]
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK


async def test_idle_executors_that_hold_the_descriptors_keep_their_turns_and_their_stops(tmp_path: Path) -> None:
    async with (
        open_system(tmp_path, QUICK) as system,
        runner_with_room_for_one(tmp_path, system, profile="echo-session") as runner,
    ):
        first = await system.submit_prompt("first")
        await system.proxy.answered("POST", f"/runner/runs/{first.run_id}/completed")
        await runner.said("→ saturated")
        refused = await system.submit_prompt("another session")
        report = await system.proxy.answered("POST", f"/runner/runs/{refused.run_id}/failed")
        assert (
            "too few file descriptors for another executor, since 1 persistent executor is alive"
            in report.json["error"]
        )
        assert "`--session-idle-timeout`" in report.json["error"]
        turn = await system.api.create_run(
            RunRequest(type="resume_session", session_id=first.session_id, parameters={"prompt": "again"})
        )
        await system.proxy.answered("POST", f"/runner/runs/{turn.run_id}/completed")
        await system.api.stop_session(first.session_id)
        await runner.said(f"{first.session_id}: stopped")
        later = await system.submit_prompt("there is room again")
        await system.proxy.answered("POST", f"/runner/runs/{later.run_id}/completed")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert not [line for line in runner.lines if "ERROR" in line or "Traceback" in line]


def test_a_limit_that_is_too_low_for_one_run_is_refused_at_the_start(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    command = ["sh", "-c", 'ulimit -n 60; exec "$@"', "sh", sys.executable, "-m", "fsm_runner"]
    ended = subprocess.run(
        [*command, "-x", PROFILE, "-c", "http://127.0.0.1:9", "--state-dir", str(tmp_path / "state")],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == EXIT_USAGE
    assert "the limit of open files is 60, too low for a single run" in ended.stderr.splitlines()[-1]


def test_the_runner_has_the_hard_limit_and_a_command_the_soft_one(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    command = ["sh", "-c", 'ulimit -S -n 300; exec "$@"', "sh", sys.executable, "-m", "fsm_runner", "run", "open-files"]
    ended = subprocess.run(
        [*command, "-x", PROFILE],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert json.loads(ended.stdout) == {"own": 300, "runner": min(hard, MOST_DESCRIPTORS)}, ended.stderr
