"""The answer to a request that cannot be granted."""

from collections.abc import Sequence
from typing import Any


class Refusal(Exception):
    """Answered with `status` and `{"detail": detail}`; detail is a text, an object or a list of field errors."""

    def __init__(self, status: int, detail: str | dict[str, Any] | list[dict[str, Any]]) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


def invalid_field(location: Sequence[str | int], message: str, kind: str = "value_error") -> Refusal:
    """A 422 in the form that FastAPI gives: a list of errors, each with the place of the field."""
    return Refusal(422, [{"type": kind, "loc": list(location), "msg": message}])


def runner_not_registered() -> Refusal:
    """The 401 that is no authentication error: the runner has to register again."""
    return Refusal(401, "Runner not registered")


def run_not_found() -> Refusal:
    return Refusal(404, "Run not found")


def session_not_found() -> Refusal:
    return Refusal(404, "Session not found")


def runner_not_found() -> Refusal:
    return Refusal(404, "Runner not found")
