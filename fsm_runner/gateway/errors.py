"""What is said to an executor whose request is not carried out."""

from fsm_runner.coordinator_client.transport import path_segment
from fsm_runner.util.text import excerpt


class Refusal(Exception):
    """Becomes an answer of this status, with `detail`."""

    def __init__(self, status: int, detail: str, *, close: bool = False) -> None:
        """`close`: the connection is of no use any more."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.close = close


class AnswerBroken(Exception):
    """The coordinator's answer ended early, when a part of it had been passed on."""


def not_found() -> Refusal:
    """The one answer to all who do not have a door's address. It tells nothing, not even whether there is one."""
    return Refusal(404, "Not Found")


def not_open(method: str, segments: tuple[str, ...]) -> Refusal:
    """The same whether what the path names is somebody else's or does not exist."""
    path = "/" + "/".join(map(path_segment, segments))
    return Refusal(403, f"{excerpt(method)} {excerpt(path)} is not open to executors")


def other_session() -> Refusal:
    return Refusal(403, "session_id: another session than the one that this address was given to")


def away() -> Refusal:
    """Without the client's own message, which names the coordinator's address."""
    return Refusal(502, "The Agent Coordinator cannot be reached at the moment")
