"""Runners with a scripted protocol executor, and runs of its sessions."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fsm_runner.config.profiles import LoadedProfile, Profile
from fsm_runner.executors import persistent
from fsm_runner.process.child.child import KILL_GRACE_S, TERM_GRACE_S, Child
from fsm_runner.protocol.wire import Agent, JsonObject, Run, RunCreated, RunRequest
from tests.support import scripted_executor
from tests.support.runner import RunningRunner, System, Waiter, open_system
from tests.support.watch import PATIENCE_S

PROFILE = "scripted"
AGENT = "scripted"
COMMAND = "executors/scripted/exec"
SESSION_STATUS = r"/runner/sessions/[^/]+/status"

GRACE_S = 0.2
"""Replaces grace periods of several seconds."""

Step = list[Any]
"""See `tests/support/scripted_executor.py`."""


def scripted_executor_source() -> str:
    """Write the scripted executor as an executable file. It uses no site-packages, so it starts quickly."""
    source = Path(scripted_executor.__file__).read_text()
    return f"#!{sys.executable} -IS\n{source}"


def write_executor(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    path.chmod(0o755)


def command_home(folder: Path, source: str | None = None, **profile_fields: Any) -> LoadedProfile:
    """Write a home with the profile and the agent `scripted`, persistent unless the fields say otherwise.

    `source` is the text of its executor, the scripted executor by default.
    """
    fields = {"lifecycle": "persistent", "command": COMMAND, **profile_fields}
    profile = Profile(type="autonomous", agents_dir="agents", **fields)
    agent = Agent(name=AGENT, parameters_schema={"type": "object"})
    write_executor(folder / COMMAND, scripted_executor_source() if source is None else source)
    path, agent_file = folder / "profiles" / f"{PROFILE}.json", folder / "agents" / f"{AGENT}.json"
    for file, content in ((path, profile), (agent_file, agent)):
        file.parent.mkdir(parents=True)
        file.write_bytes(msgspec.json.encode(content))
    return LoadedProfile(
        name=PROFILE, path=path, home=folder, profile=profile, agents=(agent,), agent_files={AGENT: agent_file}
    )


def held_by(waiter: Waiter) -> list[Step]:
    """A step in which the executor reports its process id and waits for permission to continue."""
    return [["tell_pid", str(waiter.started.path)], ["await", str(waiter.gate.path)]]


class ScriptedBench:
    """A bench with one runner that has a scripted executor."""

    def __init__(self, system: System, runner: RunningRunner) -> None:
        self.system = system
        self.proxy = system.proxy
        self.runner = runner

    async def start(self, *steps: Step) -> RunCreated:
        return await self.system.submit(AGENT, steps=steps)

    async def resume(self, run: RunCreated, *steps: Step) -> RunCreated:
        """Submit a further run for the session of this one."""
        request = RunRequest(type="resume_session", session_id=run.session_id, parameters={"steps": steps})
        return await self.system.api.create_run(request)

    async def end(self, run: RunCreated) -> Run:
        return await self.system.end(run)

    async def completes(self, run: RunCreated) -> JsonObject:
        """Wait until the run is completed. Return the result of its session, or an empty one."""
        ended = await self.system.end(run)
        assert ended.status == "completed", ended.error
        events = await self.system.api.session_events(run.session_id)
        results = [event.result_data for event in events if event.event_type == "result"]
        return (results[-1] if results else None) or {}

    async def fails(self, run: RunCreated) -> str:
        """Wait until the run has failed. Return the error at the coordinator."""
        ended = await self.system.end(run)
        assert ended.status == "failed"
        assert ended.error
        return ended.error

    async def session(self, run: RunCreated) -> str:
        """Return the status of its session at the coordinator."""
        return await self.system.api.session_status(run.session_id)

    async def session_ended(self) -> str:
        """Return the status that the runner reports for a session whose executor has ended between turns."""
        call = await self.proxy.answered("POST", SESSION_STATUS)
        status: str = call.json["status"]
        return status

    async def stop_session(self, run: RunCreated) -> None:
        async with httpx.AsyncClient(base_url=self.system.server.url, trust_env=False, timeout=PATIENCE_S) as http:
            (await http.post(f"/sessions/{run.session_id}/stop")).raise_for_status()

    def accepted_messages(self, run: RunCreated) -> list[str]:
        """Return what the coordinator has accepted for this run and its session, in order: bind, events, started, …"""
        path = f"(/runner/runs/{run.run_id}|/runner/sessions/{run.session_id}|/sessions/{run.session_id})/(.*)"
        calls = [call for call in self.proxy.calls if call.acknowledged and call.is_for(call.method, path)]
        # In the order of the responses: a message is sent after the response to the one before.
        return [call.path.rsplit("/", 1)[1] for call in sorted(calls, key=lambda call: call.answered_at or 0)]

    def signal(self, run: RunCreated) -> str:
        """Return the signal that stopped the run."""
        (call,) = self.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/stopped")
        signal: str = call.json["signal"]
        return signal


def short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the grace periods for executors that do not end."""
    monkeypatch.setattr(persistent, "SHUTDOWN_GRACE_S", GRACE_S)
    assert Child.stop.__defaults__ == (TERM_GRACE_S, KILL_GRACE_S)
    monkeypatch.setattr(Child.stop, "__defaults__", (GRACE_S, KILL_GRACE_S))


@asynccontextmanager
async def scripted_bench(
    folder: Path, home: LoadedProfile | None = None, **overrides: Any
) -> AsyncIterator[ScriptedBench]:
    """`overrides` are fields of `RunnerConfig`; the home is a new one with a persistent executor, unless given."""
    async with (
        open_system(folder) as system,
        system.running(home or command_home(folder / "home"), **overrides) as runner,
    ):
        yield ScriptedBench(system, runner)
