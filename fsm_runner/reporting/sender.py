"""Sends one message to the coordinator until it is acknowledged.

For how long: a run's report has the time limit of the state `reporting` in `specs/run.toml`; the outbox ends its
delivery. Messages of executors carry `give_up_after_s`. The waits between attempts are in
`coordinator_client/policy.py`.
"""

from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import (
    CoordinatorError,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RegistrationSuperseded,
    Unreachable,
)
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.reporting.messages import OutboundMessage, RunEnding, RunStart
from fsm_runner.util.retry import retrying
from fsm_runner.util.tasks import wait_forever

WARN_AT_FAILURE = 4
"""The failed attempt of one message at which the log warns. Earlier failures usually pass within a second."""


class MessageSender:
    """Sends messages through one coordinator client, each until it is acknowledged or refused."""

    def __init__(self, client: CoordinatorClient) -> None:
        self._client = client

    async def deliver(self, message: OutboundMessage, *, maybe_delivered: bool = False) -> ApiResponse:
        """Send until the message is acknowledged. Raises `Refused` when the coordinator will never accept it.

        A lost registration and missing credentials are temporary, so this retries as during an outage. `started` and
        a terminal report are not sent twice: if the coordinator may have the message (`maybe_delivered`, or a lost
        response), the sender asks it for the run's status first.
        """
        attempts = _Attempts(self._client, message, maybe_delivered)

        def log_failure(fault: Exception, wait_s: float) -> None:
            attempts.failures += 1
            level = "WARNING" if attempts.failures == WARN_AT_FAILURE else "DEBUG"
            # The fault names the method and the URL.
            logger.log(level, "{}: a message is not delivered yet, retrying ({})", message.subject, fault)

        return await retrying(
            attempts.attempt,
            self._client.policies.delivery,
            (Unreachable, NotRegistered, NotAuthenticated),
            on_wait=log_failure,
            sleep=self._client.sleep_until_back,
        )


class _Attempts:
    """The attempts to deliver one message."""

    def __init__(self, client: CoordinatorClient, message: OutboundMessage, maybe_delivered: bool) -> None:
        self.failures = 0
        self._client = client
        self._message = message
        self._maybe_delivered = maybe_delivered
        self._failing_since_s: float | None = None

    async def attempt(self) -> ApiResponse:
        registrations = self._client.registrations
        try:
            answer = await self._earlier_acknowledgement() or await self._send()
        except NotRegistered:
            if registrations == self._client.registrations:
                self._client.on_registration_lost()
            raise
        except RegistrationSuperseded as fault:
            # The runner, which ends now, withdraws its messages.
            self._client.on_superseded(fault)
            await wait_forever()
        except (Unreachable, NotAuthenticated) as fault:
            self._client.on_unanswered()
            self._check_limit(fault)
            raise
        self._client.note_response()
        return answer

    async def _send(self) -> ApiResponse:
        try:
            message = self._message
            return await self._client.api.deliver(
                message.path,
                message.body,
                message.method,
                run_id=message.run_id,
                attempt=message.attempt,
                registration=message.registration,
            )
        except Unreachable as fault:
            self._maybe_delivered = self._maybe_delivered or fault.may_have_arrived
            raise

    async def _earlier_acknowledgement(self) -> ApiResponse | None:
        """Return an acknowledgement if the message may have been delivered and the run's status shows that it was."""
        event = self._message.start or self._message.ending
        if not self._maybe_delivered or not isinstance(event, RunStart | RunEnding):
            return None
        try:
            found = await self._client.api.run_state(event.subject)
        except NotAuthenticated:
            raise
        except Refused:
            return None
        return ApiResponse(f"GET /runs/{event.subject}", 200, b'{"ok": true}') if event.is_known(found) else None

    def _check_limit(self, fault: CoordinatorError) -> None:
        """Raises `Refused` if the coordinator answered other calls while this message failed for its whole limit."""
        limit_s = self._message.give_up_after_s
        if self._failing_since_s is None:
            self._failing_since_s = self._client.now_s()
        if limit_s is not None and self._client.last_response_at_s - self._failing_since_s >= limit_s:
            reason = f"given up after {limit_s:g} s, in which the coordinator answered other calls: {fault}"
            raise Refused(reason, 0) from fault
