"""A runner whose executor is the real Claude Code, which uses a local server as its API."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from loguru import logger

from fsm_runner.config.manifest import manifest_beside
from fsm_runner.config.profiles import LoadedProfile, Profile
from fsm_runner.journal.opening import JOURNAL_FILE
from fsm_runner.journal.reader import Reader, RunLife, Step
from fsm_runner.protocol.wire import JsonObject, Run, RunCreated, RunRequest
from fsm_runner.reporting.executor_status import Usage
from tests.support.messages_api import MessagesApi, messages_api
from tests.support.program import REPOSITORY, environment
from tests.support.runner import RunningRunner, System, open_system
from tests.support.watch import Watch

COMMAND = "executors/claude-code/ao-claude-code-exec"
MODEL = "claude-sonnet-5"
TOKEN = "the-token-of-the-tests"
RETRIES = "2"
PASSED_ON = ["CLAUDE_CODE_MAX_RETRIES"]
"""The variables that the profile's config names in `env`."""


def needed_variables(api_url: str, folder: Path) -> dict[str, str]:
    """Return the variables that the program needs, also as root. It stores its files in `folder`, and does not read the
    user's shell profile."""
    return {
        "ANTHROPIC_BASE_URL": api_url,
        "CLAUDE_CODE_OAUTH_TOKEN": TOKEN,
        "CLAUDE_CONFIG_DIR": str(folder / "claude-config"),
        "CLAUDE_CODE_MAX_RETRIES": RETRIES,
        "IS_SANDBOX": "1",
        "HOME": str(folder),
    }


def claude_environment(api: MessagesApi, folder: Path) -> dict[str, str]:
    """Return the environment of `fsm-runner` as a program, with the bundled profiles, and its state in `folder`."""
    return environment(REPOSITORY, **needed_variables(api.url, folder), STATE_DIR=str(folder / "state"))


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name in ("ANTHROPIC_API_KEY", "CLAUDECODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def claude_profile(
    lifecycle: str = "persistent", keys: Mapping[str, Any] | None = None, **config: Any
) -> LoadedProfile:
    """`keys`: further keys of the profile; `config`: keys of its `config`."""
    fields = {"model": MODEL, "setting_sources": [], "env": PASSED_ON, **config}
    fields = {"type": "autonomous", "command": COMMAND, "lifecycle": lifecycle, "config": fields}
    fields = {**fields, "revive": True, **(keys or {})}
    return LoadedProfile(
        name="claude",
        path=REPOSITORY / "profiles" / "claude.json",
        home=REPOSITORY,
        profile=msgspec.convert(fields, Profile),
        agents=(),
        agent_files={},
        manifest=manifest_beside(REPOSITORY / COMMAND),
    )


class ClaudeBench:
    """A coordinator, a runner with Claude Code, and the API that it uses."""

    def __init__(self, system: System, runner: RunningRunner, api: MessagesApi, state_dir: Path) -> None:
        self.system = system
        self.runner = runner
        self.api = api
        self._state_dir = state_dir
        self._log_lines: list[str] = []
        self._log_watch = Watch(lambda: "\n".join(self._log_lines))

    @property
    def project(self) -> Path:
        return self.system.folder / "project"

    async def start(self, prompt: str = "hello", agent: str | None = None, **parameters: Any) -> RunCreated:
        """Create a run of a new session."""
        request = RunRequest(type="start_session", agent_name=agent, parameters=parameters or {"prompt": prompt})
        return await self.system.api.create_run(request)

    async def resume(self, run: RunCreated, prompt: str) -> RunCreated:
        request = RunRequest(type="resume_session", session_id=run.session_id, parameters={"prompt": prompt})
        return await self.system.api.create_run(request)

    async def completes(self, run: RunCreated) -> str | None:
        """Wait until the run is completed, and return the text of its session's result."""
        ended = await self.system.end(run)
        assert ended.status == "completed", ended.error
        result: str | None = (await self.system.api.session_result(run.session_id)).result_text
        return result

    async def fails(self, run: RunCreated) -> str:
        """Wait until the run has failed, and return its error."""
        ended: Run = await self.system.end(run)
        assert (ended.status, bool(ended.error)) == ("failed", True), ended
        return ended.error or ""

    async def session(self, run: RunCreated) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.system.server.url, trust_env=False) as http:
            answer = await http.get(f"/sessions/{run.session_id}")
        session: dict[str, Any] = answer.json()["session"]
        return session

    async def events(self, run: RunCreated) -> list[dict[str, Any]]:
        """Return the events of the run's session, except those that the coordinator writes itself."""
        async with httpx.AsyncClient(base_url=self.system.server.url, trust_env=False) as http:
            answer = await http.get(f"/sessions/{run.session_id}/events")
        return [event for event in answer.json()["events"] if event["event_type"] not in ("run_start", "run_completed")]

    async def messages(self, run: RunCreated) -> list[tuple[str, str]]:
        """Return role and text of the messages of the run's session."""
        events = [event for event in await self.events(run) if event["event_type"] == "message"]
        return [(event["role"], event["content"][0]["text"]) for event in events]

    def reported(self, run: RunCreated) -> list[str]:
        """Return the kinds of reports about the run and its session that the coordinator accepted, in order."""
        path = f"(/runner/runs/{run.run_id}|/sessions/{run.session_id})/(.*)"
        calls = [call for call in self.system.proxy.calls if call.acknowledged and call.is_for(call.method, path)]
        calls.sort(key=lambda call: call.answered_at or 0)
        kinds = [call.path.rsplit("/", 1)[1] for call in calls]
        return [
            str(call.json["event_type"]) if kind == "events" else kind for call, kind in zip(calls, kinds, strict=True)
        ]

    def metadata(self, run: RunCreated) -> list[JsonObject]:
        return [call.json for call in self.system.proxy.acknowledged("PATCH", f"/sessions/{run.session_id}/metadata")]

    def write_settings(self, settings: JsonObject | str) -> Path:
        """Write the project's settings; a text is written unchanged."""
        file = self.project / ".claude" / "settings.json"
        file.parent.mkdir(parents=True)
        file.write_text(settings if isinstance(settings, str) else json.dumps(settings))
        return file

    def details(self, run: RunCreated) -> list[str]:
        """Return the status details of the run from the runner's journal."""
        return [step.reason for step in self.history(run)[1] if step.event == "detail"]

    def usage(self, run: RunCreated) -> Usage:
        """Return the usage of the run from the runner's journal."""
        return msgspec.json.decode(self.history(run)[0].usage or b"{}", type=Usage)

    async def has_detail(self, run: RunCreated, detail: str, state: str = "executing") -> None:
        """Wait until the runner has recorded this status detail of a run in this state.

        The detail of a wait also names the next attempt.
        """
        line = f"{run.run_id}: {state}: {detail}"
        await self._log_watch.until(
            lambda: any(each.partition("; next attempt at")[0] == line for each in self._log_lines), line
        )

    def note_log_line(self, line: str) -> None:
        self._log_lines.append(line)
        self._log_watch.changed()

    def history(self, run: RunCreated) -> tuple[RunLife, list[Step]]:
        """Return the run and its steps from the runner's journal."""
        (path,) = self._state_dir.glob(f"*/{JOURNAL_FILE}")
        reader = Reader(path)
        try:
            (life,) = reader.run(run.run_id)
            return life, reader.steps_of_run(run.run_id)
        finally:
            reader.close()


def write_agents(folder: Path, agents: Mapping[str, JsonObject]) -> Path:
    """Write agents in the form that the embedded coordinator reads."""
    folder.mkdir()
    for name, fields in agents.items():
        agent = {"name": name, "type": "autonomous", "description": "of the tests", **fields}
        (folder / f"{name}.json").write_text(json.dumps(agent))
    return folder


@asynccontextmanager
async def claude(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    lifecycle: str = "persistent",
    *,
    agents: Mapping[str, JsonObject] | None = None,
    keys: JsonObject | None = None,
    config: JsonObject | None = None,
    variables: Mapping[str, str] | None = None,
    **overrides: Any,
) -> AsyncIterator[ClaudeBench]:
    """`keys`: of the profile; `config`: keys of its config; `variables`: those of the runner; `overrides`: fields of
    `RunnerConfig`."""
    agents_dir = write_agents(folder / "agents", agents or {})
    state_dir = folder / "state"
    async with messages_api() as api, open_system(folder, agents_dir=agents_dir) as system:
        set_variables(monkeypatch, {**needed_variables(api.url, folder), **(variables or {})})
        profile = claude_profile(lifecycle, keys, **(config or {}))
        async with system.running(profile, state_dir=state_dir, **overrides) as runner:
            claude_bench = ClaudeBench(system, runner, api, state_dir)
            sink = logger.add(lambda message: claude_bench.note_log_line(message.record["message"]), level="INFO")
            try:
                yield claude_bench
            finally:
                logger.remove(sink)
