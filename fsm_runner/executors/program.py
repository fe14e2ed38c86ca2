"""How an executor's file is started: as it is; a script with the header of PEP 723 in an environment that meets it."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.executors.environment import SDK_FOLDER, executor_environment, named_variables, uv_variables
from fsm_runner.process.child.executable import not_executable
from fsm_runner.scripts.header import DISTRIBUTION, extra_for, is_met_here, script_head

UV = "uv"
"""What starts scripts that declare what they need."""


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

    A script whose header this program's own environment meets is run in that one: nothing has to be fetched then.
    Raises `UsageError` where there is no such file, it is not executable, or it needs a `uv` that is not on PATH.
    """
    environment = executor_environment(inherited, {**named_variables(inherited, variables), **(extra or {})})
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(SDK_FOLDER)]))
    head = script_head(path)
    if head is None:
        if (reason := not_executable(path)) is not None:
            raise UsageError(f"the executor {path} {reason}")
        return ExecutorProgram((str(path),), environment)
    if is_met_here(head):
        return ExecutorProgram((sys.executable, str(path)), environment)
    uv = shutil.which(UV, path=environment["PATH"])
    if uv is None:
        raise UsageError(f"the executor {path} declares its dependencies (PEP 723), {_how_to_get_them(head)}")
    return ExecutorProgram((uv, "run", "--quiet", "--script", str(path)), environment | uv_variables(inherited))


def _how_to_get_them(head: bytes) -> str:
    """What to do about dependencies that are not installed here, where there is no `uv`: a clause of an error."""
    extra = extra_for(head)
    if extra is None:
        return "which are not installed here, so `uv` has to be on PATH"
    return (
        f"which are not installed here: run `pip install '{DISTRIBUTION}[{extra}]'` in the runner's environment "
        f"({sys.prefix}), or put `uv` on PATH, which fetches them"
    )
