"""Starts executors' processes: environment, door, working directory."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from fsm_runner.coordinator.wire import JsonObject
from fsm_runner.executors.port import Assignment, Door, Doors, SessionChannel
from fsm_runner.executors.program import ExecutorProgram
from fsm_runner.process.child import Child
from fsm_runner.process.confinement import UNCONFINED, Confinement


def protocol_variables(session_id: str, door: Door) -> dict[str, str]:
    return {"AGENT_SESSION_ID": session_id, "AGENT_ORCHESTRATOR_API_URL": door.url}


class Launched(msgspec.Struct, frozen=True):
    """An executor's process, its stdin open, and its way to the coordinator."""

    child: Child
    door: Door


class Launcher:
    """Starts one executor as often as it is needed."""

    def __init__(
        self,
        program: ExecutorProgram,
        doors: Doors,
        executor_config: JsonObject,
        confinement: Confinement = UNCONFINED,
    ) -> None:
        self.executor_config = executor_config
        self._program = program
        self._doors = doors
        self._confinement = confinement

    def launch(
        self, assignment: Assignment, channel: SessionChannel, on_stdout: Callable[[bytes], None] | None = None
    ) -> Launched:
        """Raises `SpawnFailed`; nothing is left then."""
        session_id = assignment.run.session_id
        door = self._doors.open(session_id, channel)
        try:
            child = Child.start(
                self._program.command,
                env={**self._program.environment, **protocol_variables(session_id, door)},
                cwd=Path(assignment.project_dir),
                pipe_stdin=True,
                on_stdout=on_stdout,
                confinement=self._confinement,
            )
        except BaseException:
            door.close()
            raise
        return Launched(child, door)
