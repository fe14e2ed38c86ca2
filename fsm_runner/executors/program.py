"""How an executor's file is started: PEP 723 scripts by `uv run --script`, anything else as it is."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fsm_runner.errors import UsageError

SCRIPT_HEADER_BYTES = 64 * 1024
"""As much of a file is searched for the header of PEP 723."""

_SCRIPT_HEADER = re.compile(rb"^# /// script[ \t]*\r?$", re.MULTILINE)


class ExecutorProgram(msgspec.Struct, frozen=True):
    """An executor that can be started."""

    path: Path
    command: tuple[str, ...]
    """The words of the command line."""
    uses_uv: bool


def executor_program(path: Path, environment: Mapping[str, str]) -> ExecutorProgram:
    """Raises `UsageError` where there is no such file, it is not executable, or it needs a `uv` that is not on PATH."""
    try:
        if not path.is_file():
            raise UsageError(f"there is no executor {path}")
        with path.open("rb") as file:
            head = file.read(SCRIPT_HEADER_BYTES)
    except OSError as fault:
        raise UsageError(f"the executor {path} cannot be read: {fault.strerror}") from fault
    if _SCRIPT_HEADER.search(head):
        uv = shutil.which("uv", path=environment.get("PATH", os.defpath))
        if uv is None:
            raise UsageError(f"the executor {path} declares its dependencies (PEP 723), so `uv` has to be on PATH")
        return ExecutorProgram(path, (uv, "run", "--script", str(path)), uses_uv=True)
    if not os.access(path, os.X_OK):
        raise UsageError(f"the executor {path} is not executable: run `chmod +x {path}`")
    return ExecutorProgram(path, (str(path),), uses_uv=False)
