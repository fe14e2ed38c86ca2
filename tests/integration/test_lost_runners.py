"""A runner that the coordinator takes for lost comes back: nothing of its runs is accepted (docs/queue.md)."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import RunCreated, RunRequest
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import Program, environment, finish, program
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.slow

LOST = Timings(heartbeat_interval_s=0.1, stale_after_s=0.5, removed_after_s=0.8, sweep_interval_s=0.1)
"""A silent runner is removed soon."""
STALE = Timings(heartbeat_interval_s=0.1, stale_after_s=0.5, removed_after_s=1000, sweep_interval_s=0.1)
"""A silent runner is stale soon, and never removed."""
WORK = 'echo $$ > pid; until [ -e gate ]; do sleep 0.02; done; printf \'{"done_in": "%s"}\' "$PWD"'
"""A command that works until its project directory has the file `gate`."""


class Bench:
    """A coordinator with one agent, whose runs are queued again once if their runner is lost."""

    def __init__(self, folder: Path, server: CoordinatorServer, api: CoordinatorApi) -> None:
        self.folder = folder
        self.api = api
        self._url = server.url
        self._env = environment(folder / "home")

    def arguments(self, name: str, hostname: str) -> list[str]:
        project = self.folder / name
        project.mkdir(exist_ok=True)
        places = ["--project-dir", str(project), "--state-dir", str(self.folder / f"{name}.state")]
        return ["--coordinator-url", self._url, "--profile", PROFILE, "--hostname", hostname, *places]

    @asynccontextmanager
    async def runner(self, name: str, hostname: str, project: str | None = None) -> AsyncIterator[Program]:
        arguments = self.arguments(name, hostname)
        if project is not None:
            arguments += ["--project-dir", str(self.folder / project)]
        async with program(self.folder, self._env, *arguments) as running:
            await running.said("registering → online")
            yield running

    async def history(self, name: str, run: RunCreated) -> str:
        arguments = ["history", run.run_id, "--state-dir", str(self.folder / f"{name}.state")]
        return (await finish(self.folder, self._env, *arguments)).stdout

    async def submit(self) -> RunCreated:
        return await self.api.create_run(RunRequest(type="start_session", agent_name="work", parameters={}))

    async def at_work(self, name: str) -> int:
        """Return the process id of the command, once it works in this runner's project directory."""
        file = self.folder / name / "pid"
        async with asyncio.timeout(PATIENCE_S):
            while not (file.exists() and file.read_text().strip()):  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(0.02)
        return int(file.read_text())

    def open_gate(self, name: str) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "gate").touch()

    async def until(self, run: RunCreated, **fields: Any) -> None:
        """Return when the run has these values at the coordinator."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.api.run(run.run_id)
                if all(getattr(found, name) == value for name, value in fields.items()):
                    return
                await asyncio.sleep(0.02)

    async def kept(self, run: RunCreated) -> tuple[object, ...]:
        """Return everything that a runner could change at the coordinator."""
        events = await self.api.session_events(run.session_id)
        return (await self.api.run(run.run_id), events, await self.api.session_status(run.session_id))


@asynccontextmanager
async def bench(folder: Path, timings: Timings) -> AsyncIterator[Bench]:
    home = make_home(folder / "home", agents_dir=None).home
    command = home / "executors" / "procedural" / "commands" / "work"
    command.write_text(f"#!/bin/sh\n{WORK}\n")
    command.chmod(0o755)
    agents = folder / "agents"
    agents.mkdir()
    agent: Mapping[str, object] = {"name": "work", "command": "commands/work", "retry_lost": 1}
    (agents / "work.json").write_text(json.dumps({**agent, "parameters_schema": {"type": "object"}}))
    async with (
        CoordinatorServer(port=0, timings=timings, agents_dir=agents) as server,
        CoordinatorApi(server.url) as api,
    ):
        yield Bench(folder, server, api)


@pytest.mark.parametrize("has_ended", [False, True], ids=["at work", "ended"])
async def test_nothing_of_a_runner_is_accepted_whose_run_another_one_has_executed(
    tmp_path: Path, has_ended: bool
) -> None:
    async with bench(tmp_path, LOST) as b, b.runner("frozen", "one") as frozen:
        run = await b.submit()
        pid = await b.at_work("frozen")
        os.kill(frozen.process.pid, signal.SIGSTOP)
        await b.until(run, status="pending", attempt=2)
        if has_ended:
            b.open_gate("frozen")
        b.open_gate("other")
        async with b.runner("other", "two"):
            await b.until(run, status="completed")
            kept = await b.kept(run)
            os.kill(frozen.process.pid, signal.SIGCONT)
            await frozen.said(f"{run.run_id}: superseded")
            await gone(pid)
            frozen.terminate()
            assert await frozen.exit_code() == 0
            assert await b.kept(run) == kept
        result = (await b.api.session_result(run.session_id)).result_data
        assert result == {"done_in": str(tmp_path / "other")}
        assert not [line for line in frozen.lines if "ERROR" in line]
        assert "superseded" in await b.history("frozen", run)


async def test_a_process_whose_identity_another_one_has_taken_ends_its_executors_and_reports_nothing(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, STALE) as b, b.runner("former", "same") as former:
        run = await b.submit()
        pid = await b.at_work("former")
        os.kill(former.process.pid, signal.SIGSTOP)
        async with b.runner("present", "same", project="former") as present:
            # It knows nothing of the run that its identity has.
            await b.until(run, status="failed")
            kept = await b.kept(run)
            os.kill(former.process.pid, signal.SIGCONT)
            assert await former.exit_code() == 1
            await gone(pid)
            assert "--hostname" in await former.said("another process has registered under this runner's identity")
            await former.said(f"{run.run_id}: superseded")
            present.terminate()
            assert await present.exit_code() == 0
        async with b.runner("former", "same") as successor:
            successor.terminate()
            assert await successor.exit_code() == 0
        assert await b.kept(run) == kept
        assert not [line for line in successor.lines if run.run_id in line]


async def test_a_runner_that_was_lost_may_get_its_run_again(tmp_path: Path) -> None:
    async with bench(tmp_path, LOST) as b, b.runner("only", "one") as runner:
        run = await b.submit()
        first = await b.at_work("only")
        os.kill(runner.process.pid, signal.SIGSTOP)
        await b.until(run, status="pending", attempt=2)
        os.kill(runner.process.pid, signal.SIGCONT)
        await runner.said(f"{run.run_id}: superseded")
        await gone(first)
        await runner.said(f"{run.run_id}: claimed", count=2)
        await b.until(run, status="running", attempt=2)
        b.open_gate("only")
        await b.until(run, status="completed")
        assert not [line for line in runner.lines if "ERROR" in line]
        events = [event.event_type for event in await b.api.session_events(run.session_id)]
        assert (events.count("result"), events.count("run_completed")) == (1, 1)
