"""Starts the processes of a protocol executor."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from fsm_runner.executors.environment import session_variables
from fsm_runner.executors.interface import Assignment, EndpointRegistry, SessionEndpoint
from fsm_runner.executors.program import ExecutorProgram
from fsm_runner.process.child.child import Child
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.session_channel import SessionChannel


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
