"""Where specs, profiles and executors are found."""

import os
from pathlib import Path

HOME_VARIABLE = "FSM_RUNNER_HOME"


def bundled() -> Path:
    """The folder with the `specs/`, `profiles/` and `executors/` that came with the program.

    In a wheel they lie inside the package; in a checkout, beside it.
    """
    package = Path(__file__).parents[1]
    inside = package / "bundled"
    return inside if inside.is_dir() else package.parent


def homes() -> tuple[Path, ...]:
    """The runner's homes, first match first.

    `FSM_RUNNER_HOME` stands alone: an image offers what it carries and nothing else. Otherwise the working
    directory comes first where it has a `profiles/` folder, then what is bundled.
    """
    if configured := os.environ.get(HOME_VARIABLE):
        return (Path(configured).resolve(),)
    try:
        here = Path.cwd()
    except OSError:  # it has been removed, or lies where this user may not look
        return (bundled(),)
    return (here, bundled()) if (here / "profiles").is_dir() and here != bundled() else (bundled(),)


def find(relative: str) -> Path:
    """The first home's file of this relative path, or the bundled one.

    For specs: a home need not have its own. Profiles are looked up in the homes alone (`profiles.py`).
    """
    places = [home / relative for home in homes()]
    return next((place for place in places if place.exists()), bundled() / relative)


def find_all(pattern: str) -> dict[str, Path]:
    """What `find` finds, for each relative path that matches a pattern in any home or in what is bundled."""
    places = (*homes(), bundled())
    matches = {path.relative_to(place).as_posix() for place in places for path in visible(place, pattern)}
    return {relative: find(relative) for relative in sorted(matches)}


def visible(folder: Path, pattern: str) -> list[Path]:
    """The paths below a folder that match a pattern, in order, without those with a name that starts with a dot.

    Editors keep their locks under such names (`.#agent.json`), macOS its metadata (`._agent.json`).
    """
    found = sorted(folder.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
