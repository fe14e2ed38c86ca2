"""The port through which the state `executing` works: what every kind of executor offers."""

from typing import Protocol

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.protocol.wire import JsonObject, Run
from fsm_runner.reporting.executor_status import Notes
from fsm_runner.reporting.outbox import DeliveryFuture


class RunRefused(FsmRunnerError):
    """This executor cannot carry out the run; trying again would not help."""


class ExecutionFailed(FsmRunnerError):
    """The executor ended without success. The text is the run's error, as the coordinator shows it."""


class NoTurn(FsmRunnerError):
    """The session has no turn in progress, so it cannot be bound: that would put it back to running (section 1.1)."""


class TooMuchUndelivered(FsmRunnerError):
    """The coordinator is away, and no more of the session's messages are kept for it."""


class SessionChannel(Protocol):
    """What an executor tells the coordinator about its session, in order, each message until it is acknowledged.

    Nobody has to wait for the answers. Each call raises `TooMuchUndelivered` where too much waits already.
    """

    def bind(self, executor_session_id: str, project_dir: str | None) -> DeliveryFuture:
        """Raises `NoTurn` too."""

    def event(self, body: bytes) -> DeliveryFuture:
        """An event as JSON, unchanged (section 1.4)."""

    def metadata(self, body: bytes) -> DeliveryFuture:
        """A JSON object of session fields, unchanged."""

    def note(self, notes: Notes) -> None:
        """For the runner's own record of the run that is at work."""

    def result(self, data: JsonObject) -> None:
        """A result event of this data."""


class SessionEndpoint(Protocol):
    """An executor's way to the coordinator: an address that opens one session and nothing else."""

    @property
    def url(self) -> str: ...

    def close(self) -> None:
        """The address leads nowhere from now on. May be repeated."""


class EndpointRegistry(Protocol):
    def open(self, session_id: str, channel: SessionChannel) -> SessionEndpoint: ...


class Assignment(msgspec.Struct, frozen=True):
    """A run, and where it works."""

    run: Run
    """Its blueprint has what the runner fills in."""
    project_dir: str
    """Absolute path of the run's working directory."""
    runner_id: str
    """Of the runner that has claimed it."""


class Execution(Protocol):
    """An executor at work on one run."""

    async def wait(self) -> CompletedSession:
        """Return when the work is done and its result is in the session's channel: whether the executor lives on.

        Raises `ExecutionFailed`. A cancelled wait leaves the executor as it is.
        """

    async def stop(self) -> StopSignal:
        """End it, at once and whatever it does, and say what that took."""

    async def aclose(self) -> None:
        """The run is over: end the work without grace where it is still going on; nothing of it is left then."""


class Executor(Protocol):
    def accept(self, run: Run) -> None:
        """Raises `RunRefused` where the run is not one for this executor."""

    def starts_process(self, run: Run) -> bool:
        """Whether the run needs a new process, rather than one that has lived on since an earlier run."""

    async def prepare(self, assignment: Assignment) -> None:
        """Bring up to date what the run needs. Raises `RunRefused`; an `OSError` is tried again."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> Execution:
        """Raises an `FsmRunnerError` where it cannot even be started. A cancelled start leaves nothing behind."""
