"""The calls by which a run's executor reports about its session."""

from typing import Protocol

from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.queue import DeliveryFuture


class NoTurn(FsmRunnerError):
    """The session has no turn in progress, so a bind would set it back to running (protocol.md, section 1.1)."""


class TooMuchUndelivered(FsmRunnerError):
    """The coordinator is unreachable, and the session's queue of undelivered messages is full."""


class SessionChannel(Protocol):
    """Queues a session's messages for the coordinator: in order, each one until it is acknowledged.

    Callers need not await the returned futures. Each call raises `TooMuchUndelivered` if the session's queue is full.
    """

    def bind(self, executor_session_id: str, project_dir: str | None) -> DeliveryFuture:
        """Bind the session to the executor's own session id. Also raises `NoTurn`."""

    def event(self, body: bytes) -> DeliveryFuture:
        """Queue an event, which is JSON and is sent unchanged (section 1.4)."""

    def metadata(self, body: bytes) -> DeliveryFuture:
        """Queue a JSON object of session fields, which is sent unchanged."""

    def report_status(self, status: ExecutorStatus) -> None:
        """Record status and usage of the current run in the runner's own journal."""

    def result(self, data: JsonObject) -> None:
        """Queue a result event that carries `data`."""
