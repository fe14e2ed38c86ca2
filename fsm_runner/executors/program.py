"""Starts the program of a protocol executor: directly, or for a script with a PEP 723 header, by an interpreter."""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.executors.environment import executor_environment, session_variables
from fsm_runner.executors.interface import Assignment, EndpointRegistry, SessionEndpoint
from fsm_runner.process.child.child import Child
from fsm_runner.process.child.executable import not_executable
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.user import RunUser
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.session_channel import SessionChannel
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


class Launcher(msgspec.Struct, frozen=True):
    """Starts processes of one executor."""

    program: ExecutorProgram
    endpoints: EndpointRegistry
    executor_config: JsonObject
    launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY

    def launch(
        self,
        assignment: Assignment,
        channel: SessionChannel,
        label: str,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> tuple[Child, SessionEndpoint]:
        """Open an endpoint and start a process, whose stdin is a pipe. `label`: its run or session, for log lines.

        Raises `SpawnFailed`, and then leaves nothing open.
        """
        session_id = assignment.run.session_id
        endpoint = self.endpoints.open(session_id, channel)
        try:
            child = Child.start(
                self.program.command,
                env={**self.program.environment, **session_variables(session_id, endpoint.url)},
                cwd=Path(assignment.project_dir),
                pipe_stdin=True,
                on_stdout=on_stdout,
                launch_policy=self.launch_policy,
                label=label,
            )
        except BaseException:
            endpoint.close()
            raise
        return child, endpoint
