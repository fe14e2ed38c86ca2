"""Resolves how an executor's file is started: directly, or for a script with a PEP 723 header, by an interpreter."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.executors.environment import executor_environment
from fsm_runner.process.child.executable import not_executable
from fsm_runner.process.user import RunUser
from fsm_runner.scripts.inline_metadata import DISTRIBUTION, extra_for, is_satisfied_here, script_head

UV = "uv"
"""The program that starts scripts whose dependencies the runner's environment lacks."""


class ExecutorProgram(msgspec.Struct, frozen=True):
    """The command of a protocol executor and its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    """The variables of every session. Each session adds its `session_variables`."""


def executor_program(
    path: Path,
    inherited: Mapping[str, str],
    named: Iterable[str] = (),
    user: RunUser | None = None,
    tags: Mapping[str, str] | None = None,
) -> ExecutorProgram:
    """Resolve the command. For all parameters but `path`, see `executor_environment`.

    A script whose dependencies are installed in this program's environment runs in it, so nothing has to be downloaded.
    Raises `UsageError` if the file does not exist or is not executable, or needs a `uv` that is not on PATH.
    """
    environment_of = partial(executor_environment, inherited, named=named, user=user, tags=tags, has_sdk=True)
    environment = environment_of()
    head = script_head(path)
    if head is None:
        if (reason := not_executable(path)) is not None:
            raise UsageError(f"the executor {path} {reason}")
        return ExecutorProgram((str(path),), environment)
    if is_satisfied_here(head):
        return ExecutorProgram((sys.executable, str(path)), environment)
    uv = shutil.which(UV, path=environment["PATH"])
    if uv is None:
        what_to_do = ", so `uv` has to be on PATH"
        if (extra := extra_for(head)) is not None:
            what_to_do = (
                f": run `pip install '{DISTRIBUTION}[{extra}]'` in the runner's environment ({sys.prefix}), or put "
                "`uv` on PATH, which fetches them"
            )
        raise UsageError(
            f"the executor {path} declares its dependencies (PEP 723), which are not installed here{what_to_do}"
        )
    return ExecutorProgram((uv, "run", "--quiet", "--script", str(path)), environment_of(uses_uv=True))
