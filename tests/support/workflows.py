"""Runners whose runs follow a workflow, and what they did.

flow = workflow(write={"turn": says("one"), "on_done": "check"}, check={"command": {"run": ["true"]}, ...})
async with workflow_bench(tmp_path, flow) as bench:
    run = await bench.submit()
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec

from fsm_runner.app.build import assembled_runner
from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.journal.reader import Reader, journals
from fsm_runner.journal.records import VisitRecord
from fsm_runner.protocol.approvals import ApprovalAnswer
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import JsonObject, RunCreated
from fsm_runner.workflow.file import LoadedWorkflow, load_workflow
from tests.support.command_executor import AGENT, ScriptedBench, command_home
from tests.support.runner import FAST, RunningRunner, System, open_system
from tests.support.watch import PATIENCE_S

NAME = "flow"
LONG_S = 3_600
"""A time limit that no test reaches."""
_LIMITED = ("turn", "command", "agent", "approval")


def toml(value: Any) -> str:
    """Return a value as inline TOML."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{toml(key)} = {toml(part)}' for key, part in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return encode_json(value).decode()


def workflow(name: str = NAME, top: Mapping[str, Any] | None = None, **states: Mapping[str, Any]) -> str:
    """Return the text of a workflow that begins in the first state. Activities without a time limit get `LONG_S`."""
    lines = [
        f"{key} = {toml(value)}" for key, value in {"name": name, "initial": next(iter(states)), **(top or {})}.items()
    ]
    for state, keys in states.items():
        limit = {"timeout_s": LONG_S} if any(key in keys for key in _LIMITED) and "timeout_s" not in keys else {}
        lines += [f"[states.{state}]", *(f"{key} = {toml(value)}" for key, value in {**keys, **limit}.items())]
    return "\n".join([*lines, ""])


def steps(*steps: Sequence[Any]) -> JsonObject:
    """A turn in which the scripted executor takes these steps."""
    return {"parameters": {"steps": list(steps)}}


def says(text: str, *first: Sequence[Any]) -> JsonObject:
    """A turn whose result is this text."""
    return steps(*first, ["result", {"result_text": text}])


def shell(script: str, *arguments: str, **fields: Any) -> JsonObject:
    """A command. The arguments are `$1` and so on; a literal text is before each of them."""
    return {"run": ["/bin/sh", "-c", script, "sh", *arguments], **fields}


def loaded(folder: Path, text: str, name: str = NAME) -> LoadedWorkflow:
    """Write a workflow beside the home, and load it."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return load_workflow(path)


def with_agent(home: LoadedProfile, name: str, workflow_name: str = NAME) -> LoadedProfile:
    """Add an agent that follows a workflow of the home, which `FSM_RUNNER_HOME` has to name."""
    file = home.agent_files[AGENT].with_name(f"{name}.json")
    agent = msgspec.structs.replace(home.agents[0], name=name, workflow=workflow_name)
    file.write_bytes(msgspec.json.encode(agent))
    files = {**home.agent_files, name: file}
    return msgspec.structs.replace(home, agents=(*home.agents, agent), agent_files=files)


def install(home: Path, text: str, name: str = NAME) -> None:
    """Write a workflow into a home."""
    (home / "workflows").mkdir(exist_ok=True)
    (home / "workflows" / f"{name}.toml").write_text(text)


class Visited(msgspec.Struct, frozen=True):
    """One visit, as the journal has it."""

    state: str
    ending: str | None
    target: str | None
    value: JsonObject
    usage: JsonObject
    progress: bytes | None = None
    interruptions: int = 0


class WorkflowBench(ScriptedBench):
    """A bench with one runner whose runs follow one workflow."""

    def __init__(self, system: System, runner: RunningRunner | None, state_dir: Path) -> None:
        """`runner`: None if it is not seen."""
        self.system = system
        self.proxy = system.proxy
        if runner is not None:
            self.runner = runner
        self._state_dir = state_dir

    async def submit(self, agent: str = AGENT, **parameters: Any) -> RunCreated:
        return await self.system.submit(agent, **parameters)

    async def decide(self, run: RunCreated, *, approved: bool = True, comment: str = "") -> None:
        """Decide the approval of a run at the coordinator, once that has it."""
        desk = self.system.server.coordinator.approvals

        async def is_pending() -> bool:
            return any(each.run_id == run.run_id for each in (await desk.pending()).approvals)

        await self.proxy.wait_until(is_pending, f"an approval of {run.run_id}")
        await desk.decide(run.run_id, ApprovalAnswer(approved=approved, comment=comment), "ada")

    async def enters(self, run: RunCreated, state: str, count: int = 1) -> None:
        """Return when the workflow has begun a visit of this state, which the coordinator may not know yet."""
        await self.system.detail(run, state, count)

    async def results(self, run: RunCreated) -> list[Any]:
        """Return text or data of each result event."""
        return await results(self.system, run)

    def messages(self, run: RunCreated) -> list[str]:
        """Return the texts of the assistant's messages that the coordinator has."""
        events = [call.json for call in self.proxy.acknowledged("POST", f"/sessions/{run.session_id}/events")]
        said = [event for event in events if event["event_type"] == "message" and event["role"] == "assistant"]
        return [part["text"] for event in said for part in event["content"]]

    def binds(self, run: RunCreated) -> list[str]:
        """Return the executor's session ids that the coordinator was given, in order."""
        calls = self.proxy.acknowledged("POST", f"/sessions/{run.session_id}/bind")
        return [call.json["executor_session_id"] for call in calls]

    def visits(self, run: RunCreated) -> list[Visited]:
        return visits_in(self._state_dir, run)

    def path(self, run: RunCreated) -> list[str]:
        """Return the visits as `state:ending`."""
        return [f"{visit.state}:{visit.ending}" for visit in self.visits(run)]

    def workflow_fields(self, run: RunCreated) -> list[JsonObject | None]:
        """Return the values of the session's field `workflow`, in order."""
        calls = self.proxy.acknowledged("PATCH", f"/sessions/{run.session_id}/metadata")
        return [call.json["workflow"] for call in calls if "workflow" in call.json]


async def results(system: System, run: RunCreated) -> list[Any]:
    events = await system.api.session_events(run.session_id)
    found = [event for event in events if event.event_type == "result"]
    return [event.result_text if event.result_data is None else event.result_data for event in found]


def visits_in(state_dir: Path, run: RunCreated) -> list[Visited]:
    """Return what the journals of a folder have, which a runner may still write."""
    visits: list[Visited] = []
    for path in journals(state_dir):
        with closing(Reader(path)) as reader:
            visits += map(_visited, reader.visits_of(run.run_id))
    return visits


def _visited(visit: VisitRecord) -> Visited:
    value, usage = (msgspec.json.decode(content or b"{}") for content in (visit.value, visit.usage))
    return Visited(visit.state, visit.ending, visit.target, value, usage, visit.progress, visit.interruptions)


@asynccontextmanager
async def broken_off(
    system: System, profile: LoadedProfile, workflow: LoadedWorkflow | None = None, **overrides: Any
) -> AsyncIterator[None]:
    """A runner that ends at the end of the block without another step of its runs, as if it was killed."""
    project_dir = system.folder / "project"
    project_dir.mkdir(exist_ok=True)
    config = RunnerConfig(project_dir=project_dir, **overrides)
    assembled = assembled_runner(config, profile, system.proxy.url, observer=system, policies=FAST, workflow=workflow)
    async with assembled as runner:
        living = asyncio.create_task(runner.live(), name="runner that is broken off")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await runner.wait_for_registration()
            yield
        finally:
            living.cancel()
            await asyncio.wait([living])


@asynccontextmanager
async def workflow_bench(
    folder: Path, text: str | None, home: LoadedProfile | None = None, timings: Timings | None = None, **overrides: Any
) -> AsyncIterator[WorkflowBench]:
    """`text`: the workflow of all runs; None: agents name theirs. `home`: that of the scripted executor, persistent,
    unless given. `overrides` are fields of `RunnerConfig`.
    """
    settings = {"state_dir": folder / "state", **overrides}
    home = home or command_home(folder / "home")
    workflow_of_all = None if text is None else loaded(folder, text)
    async with (
        open_system(folder, timings) as system,
        system.running(home, workflow=workflow_of_all, **settings) as runner,
    ):
        yield WorkflowBench(system, runner, settings["state_dir"])
