"""A home with one procedural agent that takes prompts, for the bundled workflows."""

from pathlib import Path

import msgspec

from fsm_runner.config.profiles import PROCEDURAL_COMMAND, LoadedProfile, Profile
from fsm_runner.protocol.wire import Agent
from tests.support.program import REPOSITORY

AGENT = "worker"
PROFILE = "tools"

WORKER = """#!/bin/sh
case "$2" in
"Divide the task"*)
    echo 'There are two parts.'
    if [ -e conflict ]; then second=one; else second=two; fi
    printf '```json\\n{"parts": ["create one", "create %s"]}\\n```\\n' $second ;;
"Several agents"*)
    git add --all
    git commit --quiet --no-edit
    echo "the conflict is resolved" ;;
"The parts of the task"*)
    touch fixed
    echo "it is fixed" ;;
"create "*)
    set -- $2
    echo "$PWD" > "$2"
    echo "created $2" ;;
"Review the work"*)
    if [ -e revised ]; then verdict=accept; else verdict=revise; fi
    printf '```json\\n{"verdict": "%s", "comments": "revise it"}\\n```\\n' $verdict ;;
"A reviewer asks"*)
    printf %s "$2" > revised
    echo "second version" ;;
*"The plan is approved"*)
    printf %s "$2" > done
    echo "it is done" ;;
"Write a plan"*)
    echo "the plan" ;;
"The command ./verify"*)
    echo line >> lines
    echo "second version" ;;
*)
    echo line > lines
    echo "first version" ;;
esac
"""
"""Does what the prompt demands, in the project directory."""
NEEDS_TWO_LINES = """#!/bin/sh
[ "$(wc -l < lines)" -ge 2 ] || { echo "lines has too few lines" >&2; exit 1; }
"""
NEEDS_BOTH_PARTS = "#!/bin/sh\ncat one two\n"
NEEDS_FIX = "#!/bin/sh\ncat one fixed\n"


def workflow_home(folder: Path, workflow: str | None = None) -> LoadedProfile:
    """Write a home, whose profile names the workflow."""
    executor = folder / Path(PROCEDURAL_COMMAND).parent
    for each in (executor / "commands", folder / "agents", folder / "profiles"):
        each.mkdir(parents=True)
    (folder / "workflows").symlink_to(REPOSITORY / "workflows")
    write_program(executor / "commands" / AGENT, WORKER)
    schema = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}
    agent = Agent(name=AGENT, command=f"commands/{AGENT}", parameters_schema=schema)
    profile = Profile(type="procedural", command=PROCEDURAL_COMMAND, agents_dir="agents", workflow=workflow)
    path, agent_file = folder / "profiles" / f"{PROFILE}.json", folder / "agents" / f"{AGENT}.json"
    path.write_bytes(msgspec.json.encode(profile))
    agent_file.write_bytes(msgspec.json.encode(agent))
    return LoadedProfile(
        name=PROFILE, path=path, home=folder, profile=profile, agents=(agent,), agent_files={AGENT: agent_file}
    )


def write_program(path: Path, source: str) -> None:
    path.write_text(source)
    path.chmod(0o755)
