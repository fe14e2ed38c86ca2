"""The port through which the state `executing` works: what every kind of executor offers."""

from typing import Protocol

import msgspec

from fsm_runner.coordinator.wire import JsonObject, Run, StopSignal
from fsm_runner.errors import FsmRunnerError


class RunRefused(FsmRunnerError):
    """This executor cannot carry out the run; trying again would not help."""


class ExecutionFailed(FsmRunnerError):
    """The executor ended without success. The text is the run's error, as the coordinator shows it."""


class SessionChannel(Protocol):
    """What an executor tells the coordinator about its session. Order is kept; nobody waits for the answer."""

    def bind(self, executor_session_id: str, project_dir: str) -> None: ...

    def result(self, data: JsonObject) -> None: ...


class Assignment(msgspec.Struct, frozen=True):
    """A run, and where it works."""

    run: Run
    project_dir: str
    """Absolute path of the run's working directory."""


class Execution(Protocol):
    """An executor at work on one run."""

    async def wait(self) -> None:
        """Return when the work is done and its result is in the session's channel.

        Raises `ExecutionFailed`. A cancelled wait leaves the executor as it is.
        """

    async def stop(self) -> StopSignal:
        """End it, at once and whatever it does, and say what that took."""

    async def aclose(self) -> None:
        """End it without grace where it is still at work; nothing of it is left afterwards."""


class Executor(Protocol):
    def accept(self, run: Run) -> None:
        """Raises `RunRefused` where the run is not one for this executor."""

    async def prepare(self, assignment: Assignment) -> None:
        """Bring up to date what the run needs. Raises `RunRefused`; an `OSError` is tried again."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> Execution:
        """Raises an `FsmRunnerError` where it cannot even be started. A cancelled start leaves nothing behind."""
