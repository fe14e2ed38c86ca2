"""How an executor's file is started: PEP 723 scripts by `uv run --script`, anything else as it is."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.process.environment import KIT_FOLDER, executor_environment, named_variables, uv_variables

SCRIPT_HEADER_BYTES = 64 * 1024
"""As much of a file is searched for the header of PEP 723."""

_SCRIPT_HEADER = re.compile(rb"^# /// script[ \t]*\r?$", re.MULTILINE)


class ExecutorProgram(msgspec.Struct, frozen=True):
    """An executor that can be started."""

    command: tuple[str, ...]
    """The words of the command line."""
    environment: Mapping[str, str]
    """All that it gets beyond the protocol's own variables."""


def executor_program(
    path: Path, inherited: Mapping[str, str], variables: Iterable[str] = (), extra: Mapping[str, str] | None = None
) -> ExecutorProgram:
    """`inherited`: the environment that it is made from; `variables`: what of it the profile names; `extra`: what it
    gets besides.

    Raises `UsageError` where there is no such file, it is not executable, or it needs a `uv` that is not on PATH.
    """
    environment = executor_environment(inherited, {**named_variables(inherited, variables), **(extra or {})})
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(KIT_FOLDER)]))
    if not _declares_dependencies(path):
        if not os.access(path, os.X_OK):
            raise UsageError(f"the executor {path} is not executable: run `chmod +x {path}`")
        return ExecutorProgram((str(path),), environment)
    uv = shutil.which("uv", path=environment["PATH"])
    if uv is None:
        raise UsageError(f"the executor {path} declares its dependencies (PEP 723), so `uv` has to be on PATH")
    return ExecutorProgram((uv, "run", "--script", str(path)), environment | uv_variables(inherited))


def _declares_dependencies(path: Path) -> bool:
    """Raises `UsageError` where there is no such file."""
    try:
        if path.is_dir():
            raise UsageError(f"the executor {path} is a directory; name the file in it")
        if not path.is_file():
            raise UsageError(f"there is no executor {path}")
        with path.open("rb") as file:
            head = file.read(SCRIPT_HEADER_BYTES)
    except OSError as fault:
        raise UsageError(f"the executor {path} cannot be read: {fault.strerror}") from fault
    return _SCRIPT_HEADER.search(head) is not None
