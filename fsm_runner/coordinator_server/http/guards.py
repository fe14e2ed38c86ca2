"""ASGI middleware that refuses requests before they reach a route."""

import re
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.coordinator_server.errors import NotAuthenticated, Unavailable
from fsm_runner.coordinator_server.http.responses import status_of
from fsm_runner.http_server.responses import error_response

OPEN_PATH = "/health"
"""Needs no token: health checks have none."""

_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(:[0-9]{1,5})?")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "host.docker.internal", "host.containers.internal"})
"""Names of this machine. Containers on a desktop use the last two. No public host can have a name in `.internal`."""

CheckToken = Callable[[list[bytes]], Awaitable[None]]
"""Verifies the values of the `Authorization` headers. Raises `NotAuthenticated`, `Unavailable`."""


class RefuseBrowsers:
    """Refuses requests with an `Origin` header.

    Runs execute commands, and without this check any web page open in a browser could submit one to 127.0.0.1.
    Runners, executors and command-line tools never send the header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _values(scope, b"origin"):
            detail = "Requests of web pages are refused: only programs can submit runs"
            await error_response(403, detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class RefuseForeignHosts:
    """Refuses requests for another host, on a server that listens on loopback.

    A web page can point its own host name to 127.0.0.1 after it is loaded (DNS rebinding). Its requests then have the
    same origin and need no `Origin` header.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """`hosts` are in lower case, IPv6 addresses in brackets."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_for_this_host(scope):
            names = ", ".join(sorted(self._hosts))
            detail = f"This coordinator serves only this machine: use one of the hosts {names}"
            await error_response(403, detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_for_this_host(self, scope: Scope) -> bool:
        hosts = _values(scope, b"host")
        if not hosts:
            # HTTP/1.0 allows this; browsers always send the header.
            return bool(scope["http_version"] == "1.0")
        host = _HOST.fullmatch(hosts[0].lower())
        return len(hosts) == 1 and host is not None and host[1].decode("latin-1") in self._hosts


class RequireTokens:
    """Refuses requests without a token that `check` accepts."""

    def __init__(self, app: ASGIApp, check: CheckToken) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != OPEN_PATH:
            try:
                await self._check(_values(scope, b"authorization"))
            except (NotAuthenticated, Unavailable) as error:
                headers = {"www-authenticate": "Bearer"} if isinstance(error, NotAuthenticated) else None
                await error_response(status_of(error), error.detail, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def local_hosts(host: str) -> frozenset[str]:
    """Return the names that clients on this machine use, and the configured host name."""
    host = host.lower()
    return LOCAL_HOSTS | {f"[{host}]" if ":" in host else host}


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]
