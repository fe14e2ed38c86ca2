"""What the program finds around itself: credentials, the user it runs as, its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from claude_code_executor.config import Config
from fsm_executor import ExecutorError

TOKEN, API_KEY = "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_API_KEY"
SANDBOX = "IS_SANDBOX"
CONFIG_FOLDER = "CLAUDE_CONFIG_DIR"

OWN_VARIABLES = ("AGENT_ORCHESTRATOR_API_URL", "AGENT_SESSION_ID", "PYTHONPATH")
"""Of the executor alone. Its address speaks for the whole session; what a model drives has no business there."""

PROGRAM_VARIABLES = {
    # It is pinned, and nobody looks at what it would say on a terminal.
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # Only these messages show whether a further turn is due.
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
}


def check_surroundings(environment: Mapping[str, str], config: Config, user_id: int) -> None:
    """Before the program is started, which says less of it. Raises `ExecutorError` with what to do."""
    if environment.get(TOKEN) and environment.get(API_KEY):
        raise ExecutorError(f"both {TOKEN} and {API_KEY} are set, and they conflict: unset one of them for the runner")
    if not environment.get(TOKEN) and not environment.get(API_KEY):
        raise ExecutorError(
            f"there are no credentials: run `claude setup-token` where you are logged in, and set {TOKEN} to the "
            "token for the runner"
        )
    if user_id == 0 and config.permission_mode == "bypassPermissions" and environment.get(SANDBOX) != "1":
        raise ExecutorError(
            "Claude Code refuses bypassPermissions as root: run the runner as another user, or set "
            f"{SANDBOX}=1 for it where the container around it is the sandbox"
        )


def config_folder(environment: Mapping[str, str]) -> Path:
    """Where the program keeps its user's settings, and the transcripts of conversations."""
    named = environment.get(CONFIG_FOLDER)
    return Path(named) if named else Path(environment.get("HOME", Path.home())) / ".claude"


def credential_in_use(source: object) -> str:
    """The name of the credential. `source`: what the program calls `apiKeySource`; settings can bring one, too."""
    match source:
        case "apiKeyHelper":
            return "the key of the settings' apiKeyHelper"
        case str(name) if name != "none":
            return name
        case _:
            return TOKEN


def leave_own_variables_out(environment: MutableMapping[str, str] = os.environ) -> None:
    """The program inherits what this process has. To be called when the gateway is known."""
    for name in OWN_VARIABLES:
        environment.pop(name, None)
