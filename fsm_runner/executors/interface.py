"""The interface between the run actor and every kind of executor."""

from typing import NoReturn, Protocol

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.child.child import Child
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.protocol.wire import JsonObject, Run
from fsm_runner.reporting.session_channel import SessionChannel


class RunRefused(FsmRunnerError):
    """This executor cannot execute the run, and a retry would not help."""


class ExecutionFailed(FsmRunnerError):
    """The executor ended without success. The text is the run's error, which the coordinator shows."""


class TurnLimited(ExecutionFailed):
    """A turn ended because of the provider's limit that its executor has reported. The executor is alive and idle."""


class SessionEndpoint(Protocol):
    """The HTTP address through which an executor reports about one session, and about no other."""

    @property
    def url(self) -> str: ...

    def close(self) -> None:
        """Reject all further requests. May be repeated."""


class EndpointRegistry(Protocol):
    def open(self, session_id: str, channel: SessionChannel) -> SessionEndpoint:
        """Open an endpoint whose messages go to `channel`."""


class Assignment(msgspec.Struct, frozen=True):
    """A run and where to execute it."""

    run: Run
    """Its blueprint has the values that the runner fills in."""
    project_dir: str
    """Absolute path of the run's working directory."""
    runner_id: str
    continues: bool = False
    """Whether the run has executed before: it continues after a wait, or with the next turn of its workflow. Its
    executor may be alive."""
    config: JsonObject = {}
    """Keys of the executor's configuration that differ in this execution."""


class Execution(Protocol):
    """One run that an executor is executing."""

    @property
    def process(self) -> Child | None:
        """The process that works for the run; None before its start."""

    async def wait(self) -> CompletedSession:
        """Return when the work is done and its result is in the session channel.

        The value says if the executor lives on after the run. Raises `ExecutionFailed`. Cancelling a wait does not stop
        the executor.
        """

    async def stop(self) -> StopSignal:
        """Stop the executor and return what it took."""

    async def aclose(self) -> None:
        """End the execution without a grace period if it is still active, and release what it holds."""


class Executor(Protocol):
    def accept(self, run: Run) -> None:
        """Raise `RunRefused` if this executor cannot execute the run."""

    def starts_process(self, run: Run) -> bool:
        """Return True if the run needs a new process, False if the process of an earlier run takes it."""

    def can_continue(self, session_id: str) -> bool:
        """Return True if a session whose turn has failed can take another one."""

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        """Raise `ExecutionFailed` once a session that could take another turn can take none. Otherwise wait forever."""

    async def end_session(self, session_id: str) -> None:
        """End the idle process of a session, whose end is not reported, so that a new one can take the next turn."""

    async def prepare(self, assignment: Assignment) -> None:
        """Fetch what the run needs. Raises `RunRefused`; the caller retries an `OSError`."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> Execution:
        """Start the run. Raises an `FsmRunnerError` if it cannot start. A cancelled start leaves nothing behind."""
