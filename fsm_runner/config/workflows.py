"""Finds the files of workflows."""

import re
from pathlib import Path

from fsm_runner.config.paths import homes, visible
from fsm_runner.errors import UsageError
from fsm_runner.machine.decoder import similar

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
"""The form of `workflow.definition.WorkflowName`: a name from a coordinator must not lead to another folder."""


def workflow_paths() -> dict[str, Path]:
    """Return the files of all workflows by name. An earlier home takes precedence."""
    paths: dict[str, Path] = {}
    for home in homes():
        for path in visible(home / "workflows", "*.toml"):
            if _NAME.fullmatch(path.stem):
                paths.setdefault(path.stem, path)
    return dict(sorted(paths.items()))


def misnamed_workflows() -> list[Path]:
    """Return the files in the folders of workflows that nothing can name, and that contain no scenarios."""
    found = [path for home in homes() for path in visible(home / "workflows", "*.toml")]
    return [path for path in found if not _NAME.fullmatch(path.stem) and not path.stem.endswith(".scenarios")]


def find_workflow(name: str) -> Path:
    """Return the file of a workflow. Raises `UsageError` with the available names if there is none."""
    files = [home / "workflows" / f"{name}.toml" for home in homes()] if _NAME.fullmatch(name) else []
    if (path := next((file for file in files if file.exists()), None)) is not None:
        return path
    paths = workflow_paths()
    hint, there_are = similar(name, paths), ", ".join(paths) or "none"
    places = ", ".join(str(home / "workflows") for home in homes())
    raise UsageError(f"Workflow not found: {name!r}{hint}; there are: {there_are} (in {places})")
