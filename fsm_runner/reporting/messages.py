"""One message to the coordinator, and those that tell how runs and sessions get on."""

import msgspec

from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.protocol import wire
from fsm_runner.protocol.json_text import encode_json, sound_text
from fsm_runner.protocol.statuses import (
    TERMINAL_RUN_STATUSES,
    UNSTARTED_RUN_STATUSES,
    CompletedSession,
    EndedSession,
    RunStatus,
    StopSignal,
)
from fsm_runner.protocol.urls import path_segment


class RunStart(msgspec.Struct, frozen=True, tag="start"):
    """That a run has begun. Told a second time, it would undo a stop request that came meanwhile."""

    subject: str
    """The run's id."""

    def is_known(self, found: wire.RunState) -> bool:
        return found.status not in UNSTARTED_RUN_STATUSES


class RunEnding(msgspec.Struct, frozen=True, tag="run"):
    """How a run has ended: what the coordinator says of it once it has taken the report."""

    subject: str
    """The run's id."""
    status: RunStatus
    error: str | None = None
    authoritative: bool = True
    """Whether it is told although the coordinator holds another end."""

    def is_known(self, found: wire.RunState) -> bool:
        """Whether the coordinator holds this, or another end that stands."""
        if not self.authoritative and found.status in TERMINAL_RUN_STATUSES:
            return True
        return found.status == self.status and (self.error is None or found.error == self.error)


class SessionEnding(msgspec.Struct, frozen=True, tag="session"):
    subject: str
    """The session's id."""


class OutboundMessage(msgspec.Struct, frozen=True):
    """One message: where it goes and its JSON body."""

    path: str
    body: bytes
    method: str = "POST"
    give_up_after_s: float | None = None
    """How long it is tried while the coordinator takes other messages; None: for ever."""
    ending: RunEnding | SessionEnding | None = None
    """What it tells the end of, if it does."""
    start: RunStart | None = None
    """What it tells the beginning of, if it does."""
    durable: bool = True
    """Whether it is sent by the runner's next process where this one is killed before."""


def started(run_id: str, runner_id: str) -> OutboundMessage:
    body = encode_json(wire.RunnerRef(runner_id))
    # Not kept: after a stop request that came meanwhile it would put the run back to running.
    return OutboundMessage(_run_path(run_id, "started"), body, start=RunStart(run_id), durable=False)


def completed(run_id: str, runner_id: str, session_status: CompletedSession = "finished") -> OutboundMessage:
    body = wire.Completed(runner_id=runner_id, session_status=session_status)
    return _ending(RunEnding(run_id, "completed"), body)


def failed(run_id: str, runner_id: str, error: str, *, authoritative: bool = True) -> OutboundMessage:
    # As the coordinator will have it, for the comparison with what it holds.
    error = sound_text(error)
    ending = RunEnding(run_id, "failed", error, authoritative)
    return _ending(ending, wire.Failed(runner_id=runner_id, error=error))


def stopped(run_id: str, runner_id: str, signal: StopSignal, *, authoritative: bool = True) -> OutboundMessage:
    ending = RunEnding(run_id, "stopped", authoritative=authoritative)
    return _ending(ending, wire.Stopped(runner_id=runner_id, signal=signal))


def session_ended(session_id: str, runner_id: str, status: EndedSession) -> OutboundMessage:
    """Of a persistent executor that has ended between turns."""
    body = wire.SessionEnded(runner_id=runner_id, status=status)
    path = f"/runner/sessions/{path_segment(session_id)}/status"
    return OutboundMessage(path, encode_json(body), ending=SessionEnding(session_id))


def bind(session_id: str, body: wire.Bind) -> OutboundMessage:
    return _of_executor(session_id, "bind", encode_json(body))


def event(session_id: str, body: bytes) -> OutboundMessage:
    return _of_executor(session_id, "events", body)


def metadata(session_id: str, body: bytes) -> OutboundMessage:
    return _of_executor(session_id, "metadata", body, "PATCH")


def _of_executor(session_id: str, what: str, body: bytes, method: str = "POST") -> OutboundMessage:
    """Its content is somebody else's: one that cannot be taken must not keep the run's report from being told."""
    return OutboundMessage(f"/sessions/{path_segment(session_id)}/{what}", body, method, EXECUTOR_MESSAGE_LIMIT_S)


def _ending(ending: RunEnding, body: msgspec.Struct) -> OutboundMessage:
    return OutboundMessage(_run_path(ending.subject, ending.status), encode_json(body), ending=ending)


def _run_path(run_id: str, report: str) -> str:
    return f"/runner/runs/{path_segment(run_id)}/{report}"
