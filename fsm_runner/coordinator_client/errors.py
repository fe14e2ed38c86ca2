"""What can go wrong between the runner and the coordinator."""

from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.wire import RegistrationConflict


class CoordinatorError(FsmRunnerError):
    """A call to the coordinator did not do what it was for."""

    may_have_arrived = False
    """Whether the coordinator may have acted on the call all the same."""


class Unreachable(CoordinatorError):
    """No answer that can be read: no connection, a 5xx, a proxy's HTML, broken JSON. It may pass."""

    may_have_arrived = True

    def __init__(self, message: str, status: int | None = None) -> None:
        """`status`: of the HTTP answer that came instead of the coordinator's; None where none came."""
        super().__init__(message)
        self.status = status


class NoConnection(Unreachable):
    """The call was never sent."""

    may_have_arrived = False


class Refused(CoordinatorError):
    """An answer that says no, for a reason that time does not change."""

    def __init__(self, message: str, status: int, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class NotAuthenticated(Refused):
    """401 or 403 for want of credentials that the coordinator accepts."""


class NotRegistered(CoordinatorError):
    """401 "Runner not registered": the coordinator has been restarted, or has given this runner up."""


class RegistrationConflictError(Refused):
    """409 to a registration."""

    def __init__(self, message: str, conflict: RegistrationConflict) -> None:
        super().__init__(message, 409)
        self.conflict = conflict


class DuplicateRunner(RegistrationConflictError):
    """A runner with the same identity counts as online. It passes when that one is stale."""


class AgentNameCollision(RegistrationConflictError):
    """Another runner has registered an agent of this name."""
