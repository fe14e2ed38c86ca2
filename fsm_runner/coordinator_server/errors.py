"""Errors of requests, independent of HTTP: `http/responses.py` maps them to status codes."""

from collections.abc import Sequence

import msgspec

from fsm_runner.protocol.approvals import Decided
from fsm_runner.protocol.wire import JsonObject


class RequestError(Exception):
    """A request that the coordinator does not fulfil. `detail` is a text, an object or a list of field errors."""

    def __init__(self, detail: str | JsonObject | list[JsonObject]) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidRequest(RequestError):
    """The request does not apply to the state of its run or session, or its content is wrong."""


class InvalidField(RequestError):
    """A field of the request is missing or wrong."""

    def __init__(self, location: Sequence[str | int], message: str, kind: str = "value_error") -> None:
        """`location` is the path of the field, as FastAPI writes it: `["body", "agents", 0]`."""
        super().__init__([{"type": kind, "loc": list(location), "msg": message}])


class NotAuthenticated(RequestError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"Not authenticated: {reason}")


class RunnerNotRegistered(RequestError):
    """The runner has to register again. It shares a status code with `NotAuthenticated` (protocol.md, section 1.1)."""

    def __init__(self) -> None:
        super().__init__("Runner not registered")


class Forbidden(RequestError):
    """This coordinator does not permit the request to anyone."""


class NotFound(RequestError):
    pass


class Conflict(RequestError):
    """The request contradicts a session, runner or agent that exists."""


class RunReassigned(Conflict):
    """The run is pending again, or another runner holds it."""

    def __init__(self, run_id: str, attempt: int) -> None:
        message = (
            f"{run_id} was given to another runner or waits for one: end its executor, and report nothing about it"
        )
        super().__init__({"error": "run_reassigned", "run_id": run_id, "attempt": attempt, "message": message})


class RegistrationSuperseded(Conflict):
    """Another process has registered under the runner's identity since."""

    def __init__(self, runner_id: str | None) -> None:
        """`runner_id` None: the number of a registration that is not the present one of any runner."""
        name = runner_id or "this runner"
        message = f"Another process has registered as {name} since: end all executors, and report nothing more"
        super().__init__({"error": "registration_superseded", "runner_id": runner_id, "message": message})


class AlreadyDecided(Conflict):
    """An earlier decision about an approval counts, or will."""

    def __init__(self, run_id: str, decision: Decided) -> None:
        super().__init__(
            {
                "error": "already_decided",
                "message": decision.text(run_id),
                "decision": msgspec.to_builtins(msgspec.convert(decision, Decided, from_attributes=True)),
            }
        )


class Unavailable(RequestError):
    """The coordinator cannot process the request at present."""


class StorageFull(Unavailable):
    """The database has no space left."""
