"""Finds the files that the commands of `fsm-runner machine` take: machines of the program, and workflows."""

import stat
from contextlib import suppress
from pathlib import Path

from fsm_runner.config.paths import find_all
from fsm_runner.config.workflows import workflow_paths
from fsm_runner.errors import UsageError
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.spec_file import parse_toml, read_text
from fsm_runner.workflow.definition import ACTIVITY_KEYS
from fsm_runner.workflow.scenarios import SUFFIX


def own_specs() -> dict[str, Path]:
    """Return the program's own specs by name. Paths below the working directory are relative."""
    return _shown({path.stem: path for path in find_all("specs/*.toml").values()})


def own_workflows() -> dict[str, Path]:
    """Return the workflows of the homes by name. Paths below the working directory are relative."""
    return _shown(workflow_paths())


def find_file(file: str) -> Path:
    """Return a file, given as a path, or as the name of one of the program's own specs or of a workflow.

    `./run` is always a path. Raises `UsageError` if there is no such file, it is not a regular one, or the name is
    ambiguous.
    """
    own, workflows = own_specs(), own_workflows()
    if file in own and file in workflows:
        raise UsageError(f"{file}: is both a machine and a workflow: name the file, {own[file]} or {workflows[file]}")
    if (found := own.get(file) or workflows.get(file)) is not None:
        return found
    try:
        mode = Path(file).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        known = ", ".join((*own, *workflows)) or "none"
        raise UsageError(f"{file}: there is no such file, and no machine or workflow of this name ({known})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise UsageError(f"{file}: this is {kind}, so it cannot be a spec")
    return Path(file)


def is_workflow(path: Path) -> bool:
    """Return whether a file is a workflow and not a machine: it is in `workflows/`, or a state has an activity.

    Raises `UsageError` if it contains scenarios.
    """
    if path.name.endswith(SUFFIX):
        raise UsageError(f"{path}: has scenarios and no machine: carry them out with `fsm-runner machine test {path}`")
    if path.absolute().parent.name == "workflows":
        return True
    try:
        states = parse_toml(path, read_text(path)).get("states")
    except SpecError:
        return False
    tables = states.values() if isinstance(states, dict) else ()
    return any(isinstance(table, dict) and any(key in table for key in ACTIVITY_KEYS) for table in tables)


def _shown(paths: dict[str, Path]) -> dict[str, Path]:
    with suppress(OSError):  # the working directory was removed
        here = Path.cwd()
        return {name: path.relative_to(here) if path.is_relative_to(here) else path for name, path in paths.items()}
    return paths
