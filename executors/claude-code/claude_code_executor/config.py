"""The profile's `config` (protocol.md, section 2.2, and further keys). `executor.json` has its schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from claude_agent_sdk import SettingSource
from jsonschema import Draft202012Validator

from fsm_executor import ExecutorError
from fsm_executor.invocation import JsonObject

MANIFEST = Path(__file__).parent.parent / "executor.json"


@dataclass(frozen=True)
class Config:
    permission_mode: Literal["bypassPermissions", "acceptEdits", "default"] = "bypassPermissions"
    setting_sources: tuple[SettingSource, ...] = ("user", "project", "local")
    model: str | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    tools: tuple[str, ...] | None = None
    mcp_required: bool = False
    append_system_prompt: str | None = None
    stall_notice_s: float = 30.0
    background_limit_s: float = 600.0
    api_timeout_s: float | None = None
    env: tuple[str, ...] = ()
    """The runner has already put these variables into the environment."""


def decode_config(given: JsonObject) -> Config:
    """Raises `ExecutorError` naming the key. fsm-runner checks the config before; other runners may not."""
    schema = json.loads(MANIFEST.read_text(encoding="utf-8-sig"))["config_schema"]
    for defect in Draft202012Validator(schema).iter_errors(given):
        raise ExecutorError(f"the profile's {'.'.join(['config', *map(str, defect.absolute_path)])}: {defect.message}")
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Config(**fields)
