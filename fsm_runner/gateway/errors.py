"""Error responses to executors."""

from fsm_runner.protocol.urls import path_segment
from fsm_runner.util.text import excerpt


class GatewayError(Exception):
    """A request that the gateway answers with `status` and `detail`."""

    def __init__(self, status: int, detail: str, *, close: bool = False) -> None:
        """`close`: close the connection after the response."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.close = close


class ResponseInterrupted(Exception):
    """The coordinator's response ended early, after a part of it was forwarded."""


def not_found() -> GatewayError:
    """Return the 404 for requests without a valid endpoint. It does not reveal which endpoints exist."""
    return GatewayError(404, "Not Found")


def not_open(method: str, names: tuple[str, ...]) -> GatewayError:
    """Return a 403. It is the same for another session's resource and for one that does not exist."""
    path = "/" + "/".join(map(path_segment, names))
    return GatewayError(403, f"{excerpt(method)} {excerpt(path)} is not open to executors")


def coordinator_unreachable() -> GatewayError:
    """Return a 502 without the HTTP client's message, which names the coordinator's address."""
    return GatewayError(502, "The Agent Coordinator cannot be reached at the moment")
