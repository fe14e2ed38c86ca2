"""ASGI middleware that refuses requests before they reach a route."""

import re
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.coordinator_server.errors import NotAuthenticated, Unavailable
from fsm_runner.coordinator_server.http.responses import status_of
from fsm_runner.http_server.responses import error_response

OPEN_PATH = "/health"
"""Needs no token: health checks have none."""

_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(:[0-9]{1,5})?")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "host.docker.internal", "host.containers.internal"})
"""Names of this machine. Containers on a desktop use the last two. No public host can have a name in `.internal`."""

CheckToken = Callable[[list[bytes]], Awaitable[str]]
"""Verifies the values of the `Authorization` headers, and returns the subject of the token.

Raises `NotAuthenticated`, `Unavailable`.
"""
CALLER = "caller"
"""The subject of a request's token in the state of the request, if tokens are required."""


class Guard:
    """Refuses requests for another host, requests of web pages, and requests without a valid token.

    Runs execute commands, and any web page open in a browser can send requests to 127.0.0.1. Browsers add an `Origin`
    header; runners, executors and command-line tools never do. A page can also point its own host name to 127.0.0.1
    after it is loaded (DNS rebinding). Its requests then have the same origin and need no `Origin` header, but they
    name that host.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, check_token: CheckToken | None) -> None:
        """`hosts` (in lower case, IPv6 addresses in brackets) None permits any host; `check_token` None, no token."""
        self._app = app
        self._hosts = hosts
        self._check_token = check_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = await self._refusal(scope) or self._app
        await app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        if self._hosts is not None and not _names_host(scope, self._hosts):
            names = ", ".join(sorted(self._hosts))
            return error_response(403, f"This coordinator serves only this machine: use one of the hosts {names}")
        if _values(scope, b"origin"):
            return error_response(403, "Requests of web pages are refused: only programs can submit runs")
        if self._check_token is not None and scope["path"] != OPEN_PATH:
            try:
                caller = await self._check_token(_values(scope, b"authorization"))
                scope["state"] = {**scope.get("state", {}), CALLER: caller}
            except (NotAuthenticated, Unavailable) as error:
                headers = {"www-authenticate": "Bearer"} if isinstance(error, NotAuthenticated) else None
                return error_response(status_of(error), error.detail, headers)
        return None


def local_hosts(host: str) -> frozenset[str]:
    """Return the names that clients on this machine use, and the configured host name."""
    host = host.lower()
    return LOCAL_HOSTS | {f"[{host}]" if ":" in host else host}


def _names_host(scope: Scope, hosts: frozenset[str]) -> bool:
    values = _values(scope, b"host")
    if not values:
        # HTTP/1.0 allows this; browsers always send the header.
        return bool(scope["http_version"] == "1.0")
    host = _HOST.fullmatch(values[0].lower())
    return len(values) == 1 and host is not None and host[1].decode("latin-1") in hosts


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]
