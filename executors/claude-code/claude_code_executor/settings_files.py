"""Finds settings that the program ignores without a warning. It does warn of unreadable files and invalid values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from claude_agent_sdk import SettingSource

from claude_code_executor.environment import config_folder

SECTIONS = ("permissions", "hooks", "sandbox", "env")
"""The keys that restrict what the program does, or that such restrictions need."""
PERMISSIONS = ("allow", "ask", "deny", "defaultMode", "additionalDirectories")
SIMILARITY = 0.8
"""The minimum similarity of a misspelt key to a known one; 1 means equal. The program has many other keys."""


def ignored_settings(sources: Collection[SettingSource], project: Path, environment: Mapping[str, str]) -> list[str]:
    """Return a status detail for each file without content and for each key that looks misspelt."""
    files = {
        "user": config_folder(environment) / "settings.json",
        "project": project / ".claude" / "settings.json",
        "local": project / ".claude" / "settings.local.json",
    }
    return [defect for source, file in files.items() if source in sources for defect in _defects(file)]


def _defects(file: Path) -> list[str]:
    try:
        if file.is_symlink() and not file.exists():
            return [f"the settings file {file} is a link to a file that does not exist"]
        content = file.read_bytes() if file.is_file() else None
    except OSError:
        return []  # the program reports it
    if content is None:
        return []
    if not content.strip():
        return [f"the settings file {file} is empty, so it has no effect"]
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError):
        return []  # the program reports it
    if not isinstance(settings, dict):
        return []
    defects = _misspelt(settings, SECTIONS)
    defects += [f"{key!r} belongs in 'permissions'" for key in settings if key in PERMISSIONS]
    if isinstance(permissions := settings.get("permissions"), dict):
        defects += [f"permissions: {each}" for each in _misspelt(permissions, PERMISSIONS)]
    return [f"the settings file {file} has a key that Claude Code ignores: {each}" for each in defects]


def _misspelt(keys: Collection[str], known: Collection[str]) -> list[str]:
    lowered = {name.lower(): name for name in known}
    found = {key: difflib.get_close_matches(key.lower(), lowered, 1, SIMILARITY) for key in keys if key not in known}
    return [f"{key!r} is probably meant to be {lowered[match[0]]!r}" for key, match in found.items() if match]
