"""The registration of this process, which its calls name in headers: protocol.md, section 1.1."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from fsm_runner.coordinator_client.errors import DuplicateRunner, NotRegistered, RegistrationSuperseded
from fsm_runner.protocol.fencing import ATTEMPT_HEADER, REGISTRATION_HEADER, RUN_HEADER
from fsm_runner.protocol.urls import path_segment
from fsm_runner.protocol.wire import Registered

Value = TypeVar("Value")
Send = Callable[[Mapping[str, str]], Awaitable[Value]]
"""Makes a call with these headers."""


class Fencing:
    """The registration of this process, which each call of the runner names. Without a number, there is no header."""

    def __init__(self) -> None:
        self.registration: int | None = None
        """The number of the latest registration; None: the coordinator gives no numbers, or there is none yet."""
        self._is_registering = False
        """Whether a registration was sent and its response is missing: it may have made the number obsolete."""

    async def register(self, send: Send[Registered]) -> Registered:
        """Make a registration, and use its number from then on."""
        self._is_registering = True
        try:
            registered = await send(_headers(self.registration))
        except DuplicateRunner:
            # A coordinator that gives numbers recognizes this process by its number: this is another process.
            self._is_registering = self.registration is None
            raise
        self.registration, self._is_registering = registered.registration, False
        return registered

    async def call(
        self,
        send: Send[Value],
        *,
        run_id: str | None = None,
        attempt: int | None = None,
        earlier: int | None = None,
    ) -> Value:
        """Make a call of the registered runner.

        `run_id`: the run on whose behalf the call writes to its session. `attempt`: the attempt of the run that the
        runner has. `earlier`: the number that an earlier process of this runner had, which counts until this one has
        its own.

        Raises `RegistrationSuperseded` if another process has registered, and `NotRegistered` if that may have been
        this process.
        """
        while True:
            number = earlier if self.registration is None else self.registration
            try:
                return await send(_headers(number, run_id, attempt))
            except RegistrationSuperseded as fault:
                if self.registration not in (None, number):
                    continue
                if self._is_registering or self.registration is None:
                    raise NotRegistered(str(fault)) from fault
                raise


def _headers(registration: int | None, run_id: str | None = None, attempt: int | None = None) -> dict[str, str]:
    if registration is None:
        return {}
    headers = {REGISTRATION_HEADER: str(registration)}
    if run_id is not None:
        headers[RUN_HEADER] = path_segment(run_id)
    if attempt is not None:
        headers[ATTEMPT_HEADER] = str(attempt)
    return headers
