"""Finds specs, profiles, executors and workflows."""

import os
from pathlib import Path

HOME_VARIABLE = "FSM_RUNNER_HOME"


def bundled() -> Path:
    """Return the folder with `specs/`, `profiles/`, `executors/` and `workflows/`.

    It is inside the package in a wheel, else beside it.
    """
    package = Path(__file__).parents[1]
    inside = package / "bundled"
    return inside if inside.is_dir() else package.parent


def homes() -> tuple[Path, ...]:
    """Return the runner's homes; files of an earlier one take precedence.

    `FSM_RUNNER_HOME` is the only home if it is set, so that an image offers nothing but its own files. Otherwise the
    homes are the working directory, if it has a `profiles/` folder, and the bundled files.
    """
    if configured := os.environ.get(HOME_VARIABLE):
        return (Path(configured).resolve(),)
    try:
        here = Path.cwd()
    except OSError:  # it was removed, or this user may not look at it
        return (bundled(),)
    return (here, bundled()) if (here / "profiles").is_dir() and here != bundled() else (bundled(),)


def find(relative: str) -> Path:
    """Return the file with this relative path in the first home that has it, else the bundled one.

    This is for specs, which a home need not have. Profiles are found only in homes (`profiles.py`).
    """
    candidates = [home / relative for home in homes()]
    return next((path for path in candidates if path.exists()), bundled() / relative)


def find_all(pattern: str) -> dict[str, Path]:
    """Return the result of `find` for each relative path in a home, or bundled, that matches a pattern."""
    folders = (*homes(), bundled())
    matches = {path.relative_to(folder).as_posix() for folder in folders for path in visible(folder, pattern)}
    return {relative: find(relative) for relative in sorted(matches)}


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the sorted paths below a folder that match a pattern, without hidden files and folders.

    Editors use hidden names for locks (`.#agent.json`), macOS for metadata (`._agent.json`).
    """
    found = sorted(folder.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
