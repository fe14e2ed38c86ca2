"""Checks the environment of the program (credentials, user) and prepares the variables that it inherits."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from claude_code_executor.config import Config
from fsm_executor import ExecutorError

TOKEN, API_KEY = "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_API_KEY"
SANDBOX = "IS_SANDBOX"
CONFIG_FOLDER = "CLAUDE_CONFIG_DIR"

PRIVATE_VARIABLES = ("AGENT_ORCHESTRATOR_API_URL", "AGENT_SESSION_ID", "PYTHONPATH")
"""Variables of the executor that the program does not inherit. The gateway URL gives access to the whole session, and
a model must not have that."""

PROGRAM_SETTINGS = {
    # Its version is pinned.
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # Only these messages show whether a further turn is due.
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
}


def check_environment(environment: Mapping[str, str], config: Config, user_id: int) -> None:
    """Raises `ExecutorError` with a remedy for what would make the program fail with a less helpful message."""
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
            f"{SANDBOX}=1 for it if the container around it is the sandbox"
        )


def config_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the program's user settings and transcripts."""
    named = environment.get(CONFIG_FOLDER)
    return Path(named) if named else Path(environment.get("HOME", Path.home())) / ".claude"


def credential_in_use(source: object) -> str:
    """Return the name of the credential. `source` is the program's `apiKeySource`; settings can provide a key too."""
    match source:
        case "apiKeyHelper":
            return "the key of the settings' apiKeyHelper"
        case str(name) if name != "none":
            return name
        case _:
            return TOKEN


def remove_private_variables(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove what the program must not inherit from this process. Call it after the gateway's URL was read."""
    for name in PRIVATE_VARIABLES:
        environment.pop(name, None)
