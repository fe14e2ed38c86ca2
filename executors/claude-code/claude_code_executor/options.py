"""Builds the options with which the program is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions
from claude_agent_sdk.types import SystemPromptFile, SystemPromptPreset

from claude_code_executor.config import Config
from claude_code_executor.environment import PROGRAM_SETTINGS
from fsm_executor import ExecutorError, Invocation
from fsm_executor.invocation import JsonObject

LINE_LIMIT_BYTES = 64 * 1024 * 1024
"""The longest line of the program's output. A longer one ends the session."""

SELF_WAKING_TOOLS = ("ScheduleWakeup", "CronCreate", "CronDelete", "CronList")
"""Tools that schedule turns for later, when no run of the session may be open to report them."""

OWN_SETTINGS = {"crossSessionInbound": "refuse"}
"""Keeps the model of another session with the same user configuration from starting a turn in this one."""


def build_options(
    invocation: Invocation, config: Config, resume: str | None, folder: Path, on_stderr: Callable[[str], None]
) -> ClaudeAgentOptions:
    """`resume` is the id of a conversation to resume. `folder` is a private folder, which the program reads when it
    starts, for values that are too long or too secret for a command line. Raises `ExecutorError`."""
    blueprint = invocation.agent_blueprint
    schema = blueprint.get("output_schema")
    return ClaudeAgentOptions(
        permission_mode=config.permission_mode,
        setting_sources=list(config.setting_sources),
        settings=json.dumps(OWN_SETTINGS),
        model=config.model,
        max_turns=config.max_turns,
        max_budget_usd=config.max_budget_usd,
        tools=None if config.tools is None else list(config.tools),
        allowed_tools=list(config.allowed_tools),
        disallowed_tools=[*SELF_WAKING_TOOLS, *config.disallowed_tools],
        system_prompt=_system_prompt(blueprint, config, resume, folder),
        mcp_servers=_mcp_servers(blueprint.get("mcp_servers"), folder),
        output_format={"type": "json_schema", "schema": schema} if isinstance(schema, dict) else None,
        resume=resume,
        env={**PROGRAM_SETTINGS, **_api_timeouts(config)},
        # These messages show that a response of the API is still arriving.
        include_partial_messages=True,
        max_buffer_size=LINE_LIMIT_BYTES,
        stderr=on_stderr,
    )


def _api_timeouts(config: Config) -> dict[str, str]:
    """Return the variables that limit the time until a response begins, and between its parts (at least 10 s)."""
    if config.api_timeout_s is None:
        return {}
    timeout_ms = str(round(config.api_timeout_s * 1000))
    return {"API_TIMEOUT_MS": timeout_ms, "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": timeout_ms}


def _system_prompt(
    blueprint: JsonObject, config: Config, resume: str | None, folder: Path
) -> SystemPromptFile | SystemPromptPreset:
    """Return the agent's system prompt for a start, otherwise the program's own."""
    prompt, more = blueprint.get("system_prompt"), config.append_system_prompt
    if resume is None and isinstance(prompt, str) and prompt:
        file = folder / "system-prompt"
        file.write_text("\n\n".join(filter(None, [prompt, more])))
        return {"type": "file", "path": str(file)}
    own: SystemPromptPreset = {"type": "preset", "preset": "claude_code"}
    if more is not None:
        own["append"] = more
    return own


def _mcp_servers(servers: Any, folder: Path) -> str | dict[str, Any]:
    """Return a file, because the headers of a server are credentials and any user can read a command line."""
    if not servers:
        return {}
    if not isinstance(servers, dict):
        raise ExecutorError("the agent's mcp_servers is not an object")
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {name: _mcp_server(name, server) for name, server in servers.items()}}))
    return str(file)


def _mcp_server(name: str, server: Any) -> JsonObject:
    if not isinstance(server, dict) or not isinstance(server.get("url"), str):
        raise ExecutorError(f"the agent's mcp_servers.{name} has no url")
    headers = server.get("config") or {}
    if not isinstance(headers, dict):
        raise ExecutorError(f"the agent's mcp_servers.{name}.config is not an object")
    return {"type": "http", "url": server["url"], "headers": {key: str(value) for key, value in headers.items()}}
