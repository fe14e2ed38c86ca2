"""The messages that a runner queues for the coordinator (protocol.md, sections 1.1 and 1.4)."""

from http import HTTPStatus
from urllib.parse import unquote

import msgspec

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.protocol import statuses, wire
from fsm_runner.protocol.json_text import encode_json, valid_text
from fsm_runner.protocol.urls import path_segment


class RunStart(msgspec.Struct, frozen=True, tag="start"):
    """Marks a `started` report of a run, the subject. Sent twice, it would undo a stop request that came in between."""

    subject: str

    def is_known(self, found: wire.RunState) -> bool:
        """Return whether the coordinator has the report already."""
        return found.status not in statuses.UNSTARTED_RUN_STATUSES


class RunEnding(msgspec.Struct, frozen=True, tag="run"):
    """The outcome in the terminal report of a run, the subject."""

    subject: str
    status: statuses.RunStatus
    error: str | None = None
    provisional: bool = False
    """Whether the outcome is this runner's assumption: an end that the coordinator holds takes precedence."""

    def is_known(self, found: wire.RunState) -> bool:
        """Return whether the coordinator holds this end, or another one that takes precedence."""
        if self.provisional and found.status in statuses.TERMINAL_RUN_STATUSES:
            return True
        return found.status == self.status and (self.error is None or found.error == self.error)


class SessionEnding(msgspec.Struct, frozen=True, tag="session"):
    """Marks a report on the end of a session, the subject."""

    subject: str
    run_id: str | None = None
    """The last run of the session."""


class OutboundMessage(msgspec.Struct, frozen=True):
    """One request to the coordinator. The journal stores it, so a field that an older one lacks has a default, and any
    other change needs a migration.
    """

    path: str
    body: bytes
    """JSON."""
    method: str = "POST"
    give_up_after_s: float | None = None
    """For how long the message is retried while the coordinator accepts other calls; None: without a limit."""
    ending: RunEnding | SessionEnding | None = None
    start: RunStart | None = None
    durable: bool = True
    """Whether the runner's next process sends it if this one ends before."""
    waits_for_disk: bool = False
    """Whether it is sent only when the journal has it, with all that was recorded before."""
    run_id: str | None = None
    """The run on whose behalf it writes to its session; None for a report."""
    attempt: int | None = None
    """The attempt of its run that this runner has; None: it is not known."""
    registration: int | None = None
    """That of the runner when it wrote the message; None: the coordinator gives no numbers, or there was none yet."""

    @property
    def subject(self) -> str:
        """The run or session that the message is about: each path ends with its id and an action."""
        return unquote(self.path.rpartition("/")[0].rpartition("/")[2])

    @property
    def concerned_run_id(self) -> str | None:
        """The run that it is about, or on whose behalf it is sent. None if an earlier version wrote it."""
        match self.start or self.ending:
            case RunStart(subject) | RunEnding(subject) | SessionEnding(run_id=subject):
                return subject
            case None:
                return self.run_id


def started(run_id: str, runner_id: str) -> OutboundMessage:
    body = encode_json(wire.RunnerRef(runner_id))
    # Not durable: after a stop request, a late `started` would set the run back to running.
    return OutboundMessage(_run_path(run_id, "started"), body, start=RunStart(run_id), durable=False)


def completed(run_id: str, runner_id: str, session_status: statuses.CompletedSession = "finished") -> OutboundMessage:
    return _ending(RunEnding(run_id, "completed"), wire.Completed(runner_id=runner_id, session_status=session_status))


def failed(run_id: str, runner_id: str, error: str, *, provisional: bool = False) -> OutboundMessage:
    # The coordinator's copy is compared with this text, so it must be the text that is sent.
    error = valid_text(error)
    ending = RunEnding(run_id, "failed", error, provisional)
    return _ending(ending, wire.Failed(runner_id=runner_id, error=error))


def stopped(run_id: str, runner_id: str, signal: statuses.StopSignal, *, provisional: bool = False) -> OutboundMessage:
    ending = RunEnding(run_id, "stopped", provisional=provisional)
    return _ending(ending, wire.Stopped(runner_id=runner_id, signal=signal))


def session_ended(
    session_id: str, runner_id: str, status: statuses.EndedSession, run: wire.Run | None = None
) -> OutboundMessage:
    """Report that a persistent executor ended between turns. `run`: the last run of the session."""
    body = wire.SessionEnded(runner_id=runner_id, status=status)
    path = f"/runner/sessions/{path_segment(session_id)}/status"
    ending = SessionEnding(session_id, None if run is None else run.run_id)
    return OutboundMessage(path, encode_json(body), ending=ending)


def bind(session_id: str, body: wire.Bind, run: wire.Run | None = None) -> OutboundMessage:
    return _from_executor(session_id, "bind", encode_json(body), run)


def event(session_id: str, body: bytes, run: wire.Run | None = None) -> OutboundMessage:
    return _from_executor(session_id, "events", body, run)


def metadata(session_id: str, body: bytes, run: wire.Run | None = None) -> OutboundMessage:
    return _from_executor(session_id, "metadata", body, run, "PATCH")


def unreported_reason(outcome: str | None, fault: Exception) -> str:
    """Return why the coordinator has no record of an end. `outcome`: None if the coordinator decided the end itself."""
    if outcome is None:
        return str(fault)
    if isinstance(fault, Refused) and fault.status == HTTPStatus.NOT_FOUND:
        return f"it ended as {outcome} here, but the coordinator does not know it any more: {fault}"
    return f"it ended as {outcome} here, but the coordinator has not accepted the report: {fault}"


def _from_executor(
    session_id: str, action: str, body: bytes, run: wire.Run | None, method: str = "POST"
) -> OutboundMessage:
    """Build a message with executor-supplied content. Its limit keeps it from blocking the run's report."""
    path = f"/sessions/{path_segment(session_id)}/{action}"
    message = OutboundMessage(path, body, method, EXECUTOR_MESSAGE_LIMIT_S)
    return message if run is None else msgspec.structs.replace(message, run_id=run.run_id, attempt=run.attempt)


def _ending(ending: RunEnding, body: msgspec.Struct) -> OutboundMessage:
    return OutboundMessage(_run_path(ending.subject, ending.status), encode_json(body), ending=ending)


def _run_path(run_id: str, report: str) -> str:
    return f"/runner/runs/{path_segment(run_id)}/{report}"
