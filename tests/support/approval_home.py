"""A home whose agent `say` asks for an approval first."""

import json
from pathlib import Path

import msgspec

from fsm_runner.config.profiles import LoadedProfile
from tests.support.home import make_home

WORKFLOW = r"""
name = "ask-first"
initial = "ask"
params = { text = "string" }

[states.ask]
approval = { question = "Say ${params.text}?\n\u001b[31mReally?" }
timeout_s = 3600
on_done = "work"
on_denied = "rejected"

[states.work]
turn = {}
timeout_s = 60
on_done = "completed"

[states.rejected]
final = true
outcome = "failed"
error = "denied by ${ask.by}: ${ask.comment}"
"""


def make_approval_home(folder: Path) -> LoadedProfile:
    """Write the home below `folder`, which `FSM_RUNNER_HOME` has to name."""
    profile = make_home(folder)
    (folder / "workflows").mkdir()
    (folder / "workflows" / "ask-first.toml").write_text(WORKFLOW)
    agents = [
        msgspec.structs.replace(agent, workflow="ask-first") if agent.name == "say" else agent
        for agent in profile.agents
    ]
    file = profile.agent_files["say"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "workflow": "ask-first"}))
    return msgspec.structs.replace(profile, agents=tuple(agents))
