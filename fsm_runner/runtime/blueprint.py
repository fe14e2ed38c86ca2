"""Replaces the runner's placeholders in an agent (protocol.md, section 1.2)."""

import re
from collections.abc import Callable, Mapping

import msgspec

from fsm_runner.protocol.json_tree import with_texts
from fsm_runner.protocol.wire import JsonObject, Run

RunnerValues = Callable[[str], Mapping[str, str]]
"""Returns the values for a session by placeholder. Only `${runner.orchestrator_mcp_url}` is defined; unknown ones are
left unchanged."""

MCP_URL_PLACEHOLDER = "${runner.orchestrator_mcp_url}"
_FOREIGN_PLACEHOLDER = re.compile(r"\$\{(?!runner\.)[^{}]+\}")


def with_runner_values(run: Run, values: RunnerValues) -> Run:
    """Return the run with all known placeholders in the texts of its blueprint replaced."""
    if run.resolved_agent_blueprint is None:
        return run
    own = values(run.session_id)

    def replaced(text: str) -> str:
        for placeholder, replacement in own.items():
            text = text.replace(placeholder, replacement)
        return text

    return msgspec.structs.replace(run, resolved_agent_blueprint=with_texts(run.resolved_agent_blueprint, replaced))


def unresolved(definition: JsonObject) -> list[str]:
    """Return what only the coordinator can resolve in a definition: other placeholders, and references to MCP servers.

    A placeholder of the coordinator is `${params.topic}`, for example. A run's blueprint has neither.
    """
    found: dict[str, None] = {}

    def note(text: str) -> str:
        found.update(dict.fromkeys(_FOREIGN_PLACEHOLDER.findall(text)))
        return text

    with_texts(definition, note)
    servers = definition.get("mcp_servers")
    for name, server in servers.items() if isinstance(servers, dict) else ():
        if isinstance(server, dict) and "ref" in server:
            found[f"MCP server {name!r}"] = None
    return list(found)
