"""The calls by which a run's executor reports about its session."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from fsm_runner.coordinator_client.policy import SESSION_BACKLOG_LIMIT_BYTES
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.reporting import messages
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.reporting.queue import DeliveryFuture

NULL = msgspec.Raw(b"null")


class NoTurn(FsmRunnerError):
    """The session has no turn in progress, so a bind would set it back to running (protocol.md, section 1.1)."""


class TooMuchUndelivered(FsmRunnerError):
    """The coordinator is unreachable, and the session's queue of undelivered messages is full."""


class ReportingContext(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all sessions of one runner."""

    outbox: Outbox
    clock: EventClock
    hostname: str
    executor_profile: str
    redactor: Redactor = msgspec.field(default_factory=Redactor)
    undelivered_limit_bytes: int = SESSION_BACKLOG_LIMIT_BYTES


class ExecutorEvent(msgspec.Struct, frozen=True):
    """The fields of a session event (protocol.md, section 1.4) that the runner itself uses."""

    kind: str
    """Its `event_type`."""
    role: str | None = None
    result_text: msgspec.Raw = NULL
    result_data: msgspec.Raw = NULL

    @property
    def shows_progress(self) -> bool:
        """Whether the executor has got an answer of its provider. A prompt and a bind come before that."""
        return self.kind != "message" or self.role == "assistant"


class SentBind(NamedTuple):
    body: wire.Bind
    delivery: DeliveryFuture


class TurnObserver:
    """Receives what an executor reports in a turn; this one ignores it. The methods must not block."""

    @property
    def continues_session(self) -> bool:
        """Whether the run continues after the turn: after a wait for a provider's limit, or because of its workflow."""
        return False

    def note_status(self, status: ExecutorStatus) -> None:
        """The executor has reported a status detail, its usage or a limit of its provider."""

    def note_bind(self) -> None:
        """The executor has bound the session."""

    def note_event(self, event: ExecutorEvent) -> None:
        """The executor has sent an event."""


class SessionChannel:
    """Queues a session's messages for the coordinator: in order, each one until it is acknowledged.

    Callers need not await the returned futures. Each call raises `TooMuchUndelivered` if the session's queue is full.
    """

    def __init__(
        self,
        session_id: str,
        context: ReportingContext,
        may_bind: Callable[[], bool],
        observer: TurnObserver | None = None,
        run: wire.Run | None = None,
    ) -> None:
        """`may_bind` returns whether a turn is in progress. `observer` receives what the executor reports.

        `run`: the run on whose behalf the messages are sent; None: no coordinator can reassign it.
        """
        self._session_id = session_id
        self._context = context
        self._run = run
        self._may_bind = may_bind
        self.observer = observer or TurnObserver()
        self.last_bind: SentBind | None = None
        """The bind of the session's conversation; None if this process has not queued it."""

    @property
    def run(self) -> wire.Run | None:
        return self._run

    def bind(self, executor_session_id: str, project_dir: str | None) -> DeliveryFuture:
        """Bind the session to the executor's own session id. Also raises `NoTurn`."""
        if not self._may_bind():
            raise NoTurn(f"{self._session_id}: no turn is in progress, so the session cannot be bound")
        body = wire.Bind(
            executor_session_id=executor_session_id,
            hostname=self._context.hostname,
            executor_profile=self._context.executor_profile,
            project_dir=project_dir,
        )
        delivery = self._put(messages.bind(self._session_id, body, self.run))
        self.last_bind = SentBind(body, delivery)
        self.observer.note_bind()
        return delivery

    def event(self, event: ExecutorEvent, body: bytes) -> DeliveryFuture | None:
        """Queue an event. `body` is its JSON, which is sent unchanged except for secrets (section 1.4).

        None if the event is not sent.
        """
        delivery = self._put(messages.event(self._session_id, body, self.run))
        self.observer.note_event(event)
        return delivery

    def metadata(self, body: bytes) -> DeliveryFuture:
        """Queue a JSON object of session fields, which is sent unchanged except for secrets."""
        return self._put(messages.metadata(self._session_id, body, self.run))

    def result(self, data: wire.JsonObject) -> None:
        """Queue a result event that carries `data`."""
        event = wire.ResultEvent(session_id=self._session_id, timestamp=self._context.clock.now(), result_data=data)
        self.event(ExecutorEvent("result", result_data=msgspec.Raw(encode_json(data))), encode_json(event))

    def _put(self, message: OutboundMessage) -> DeliveryFuture:
        message = msgspec.structs.replace(message, body=self._context.redactor.json(message.body))
        queued_bytes = self._context.outbox.queued_bytes(self._session_id)
        limit_bytes = self._context.undelivered_limit_bytes
        if queued_bytes + len(message.body) > limit_bytes:
            raise TooMuchUndelivered(
                f"{self._session_id}: the coordinator has not acknowledged {queued_bytes:,} bytes of this session, "
                f"and no more than {limit_bytes:,} bytes are kept for it"
            )
        return self._context.outbox.put(self._session_id, message)
