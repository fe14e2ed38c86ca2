"""A runner's home without agents, and a coordinator's folders with all of them: a run can be submitted before there is
a runner, and while it is away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fsm_runner.config.profiles import PROCEDURAL_COMMAND, LoadedProfile, Profile
from fsm_runner.protocol.wire import Agent
from tests.support.command_executor import COMMAND, write_executor
from tests.support.scripts import write_script

PROFILE = "coordinated"
SCRIPT = "script"
"""The agent that is not a command of the executor's folder, but a script of the coordinator."""
SCRIPTED = "scripted"
"""The agent of an executor in place of the procedural one."""


def write_coordinated_home(
    folder: Path, agents: Mapping[str, str | None], executor: str | None = None, **profile_fields: Any
) -> LoadedProfile:
    """Below `folder`: `home`, and the coordinator's `agents` and `scripts`.

    `agents`: shell commands by the name of their agent; None: it has nothing to start. `executor`: the source of one
    that takes the procedural one's place, persistent unless the fields say otherwise.
    """
    home = folder / "home"
    commands = home / Path(PROCEDURAL_COMMAND).parent / "commands"
    for place in (home / "profiles", commands, folder / "agents", folder / "scripts"):
        place.mkdir(parents=True)
    agent = Agent(name=SCRIPTED, type="autonomous", parameters_schema={"type": "object"})
    (folder / "agents" / f"{SCRIPTED}.json").write_bytes(msgspec.json.encode(agent))
    for name, command in agents.items():
        _write_agent(folder / "agents", name, command)
        (commands / name).write_text(f"#!/bin/sh\n{command}\n")
        (commands / name).chmod(0o755)
    if script := agents.get(SCRIPT):
        write_script(folder / "scripts", SCRIPT, script)
    if executor is None:
        profile = Profile(type="procedural", command=PROCEDURAL_COMMAND, **profile_fields)
    else:
        write_executor(home / COMMAND, executor)
        fields = {"lifecycle": "persistent", **profile_fields}
        profile = Profile(type="autonomous", command=COMMAND, **fields)
    path = home / "profiles" / f"{PROFILE}.json"
    path.write_bytes(msgspec.json.encode(profile))
    return LoadedProfile(name=PROFILE, path=path, home=home, profile=profile, agents=(), agent_files={})


def _write_agent(folder: Path, name: str, command: str | None) -> None:
    agent = Agent(
        name=name,
        type="procedural",
        script=SCRIPT if name == SCRIPT else None,
        command=f"commands/{name}" if command and name != SCRIPT else None,
        parameters_schema={"type": "object"},
    )
    (folder / f"{name}.json").write_bytes(msgspec.json.encode(agent))
