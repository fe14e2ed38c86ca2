"""Errors of calls to the coordinator."""

from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.error_bodies import ErrorDetail


class CoordinatorError(FsmRunnerError):
    """A call failed."""

    may_have_arrived = False
    """Whether the coordinator may have acted on the call nevertheless."""


class Unreachable(CoordinatorError):
    """No usable response: no connection, a 5xx, a proxy's page, broken JSON. A later call may succeed."""

    may_have_arrived = True

    def __init__(self, message: str, status: int | None = None) -> None:
        """`status` is that of an HTTP response that did not come from the coordinator, or of its 5xx."""
        super().__init__(message)
        self.status = status


class NoConnection(Unreachable):
    """The call was never sent."""

    may_have_arrived = False


class Refused(CoordinatorError):
    """A final rejection: the same call would be rejected again."""

    def __init__(self, message: str, status: int, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class NotAuthenticated(Refused):
    """A 401 or 403: the coordinator does not accept the credentials."""


class NotRegistered(CoordinatorError):
    """A 401 "Runner not registered": the coordinator was restarted, or has removed this runner."""


class RegistrationConflict(Refused):
    """A 409 to a registration."""

    def __init__(self, message: str, detail: ErrorDetail) -> None:
        super().__init__(message, 409)
        self.detail = detail


class DuplicateRunner(RegistrationConflict):
    """A runner with the same identity counts as online. The conflict ends when that runner becomes stale."""


class AgentNameCollision(RegistrationConflict):
    """The coordinator, or another runner, has an agent of this name."""


class RunReassigned(Refused):
    """A 409: the run of a message waits for a runner again, or another runner has it (section 1.1, "Fencing")."""

    def __init__(self, message: str, attempt: int) -> None:
        """`attempt`: the one for which the run waits, or that the other runner has."""
        super().__init__(message, 409)
        self.attempt = attempt


class RegistrationSuperseded(Refused):
    """A 409: another process has registered under this runner's identity since (section 1.1, "Fencing")."""
