"""A runner's home whose agents are made for tests."""

from pathlib import Path
from typing import Any

import msgspec

from fsm_runner.config.profiles import PROCEDURAL_COMMAND, LoadedProfile, Profile
from fsm_runner.protocol.wire import Agent

PROFILE = "bench"

COMMANDS = {
    # Each is called with `--key value` pairs; the tests give the keys in the order that is used here.
    "say": 'printf \'{"said": "%s"}\' "$2"',
    "fail": 'echo "on stdout"; echo "it broke" >&2; exit "$2"',
    "say-where": 'printf \'{"directory": "%s"}\' "$PWD"',
    "fail-in-colour": 'printf "it \\033]0;owned\\007broke\\033[31m in $2" >&2; exit 1',
    "wait": 'echo $$ > "$2"; read answer < "$4"; printf \'{"heard": "%s"}\' "$answer"',
    "ignore-sigterm": 'trap \'\' TERM; echo $$ > "$2"; while ! read answer < "$4"; do :; done',
    "leave-a-child": 'sleep 1000 & echo $! > "$2"; read answer < "$4"',
    "flood": "head -c \"$2\" /dev/zero | tr '\\0' x; head -c \"$2\" /dev/zero | tr '\\0' y >&2",
    "touch": ': > "$2"',
    "hang": "exec sleep 1000",
    # The runner lowers its own limit while it starts a process, and may not have raised it again yet.
    "open-files": 'while set -- $(grep "open files" /proc/$PPID/limits); [ "$4" = "$(ulimit -n)" ]; do :; done; '
    'printf \'{"own": %s, "runner": %s}\' "$(ulimit -n)" "$4"',
    "no-object": 'echo "plain text"',
    "write-nul": 'head -c "$2" /dev/zero',
}
"""Shell commands by the name of their agent."""


def make_home(folder: Path, **profile_fields: Any) -> LoadedProfile:
    """Write a home with the profile `bench` below `folder`, as `FSM_RUNNER_HOME` may name it."""
    executor = folder / Path(PROCEDURAL_COMMAND).parent
    commands, agents_dir, profiles = executor / "commands", executor / "agents" / PROFILE, folder / "profiles"
    for each in (commands, agents_dir, profiles):
        each.mkdir(parents=True)
    agents = []
    for name, script in COMMANDS.items():
        command = commands / name
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        agent = Agent(name=name, command=f"commands/{name}", parameters_schema={"type": "object"})
        (agents_dir / f"{name}.json").write_bytes(msgspec.json.encode(agent))
        agents.append(agent)
    fields = {"agents_dir": str(agents_dir.relative_to(folder)), **profile_fields}
    profile = Profile(type="procedural", command=PROCEDURAL_COMMAND, **fields)
    path = profiles / f"{PROFILE}.json"
    path.write_bytes(msgspec.json.encode(profile))
    files = {agent.name: agents_dir / f"{agent.name}.json" for agent in agents}
    return LoadedProfile(name=PROFILE, path=path, home=folder, profile=profile, agents=tuple(agents), agent_files=files)
