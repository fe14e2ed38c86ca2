"""What stands before the routes: who is not let in, whatever is asked for."""

import re
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.coordinator_server.http.responses import json_response

if TYPE_CHECKING:
    from fsm_runner.coordinator_server.auth.tokens import TokenVerifier

OPEN_PATH = "/health"
"""Answered without a token: whoever watches over the process has none."""

_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(:[0-9]{1,5})?")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "host.docker.internal", "host.containers.internal"})
"""The last two are what containers on a desktop call this machine, whose loopback they reach. No server of the internet
can have a name in `.internal`."""


class RefuseBrowsers:
    """Refuses what carries an `Origin` header.

    A run executes commands: without this, any web page that its user looks at could submit one to 127.0.0.1. Runners,
    executors and command-line tools never send the header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _values(scope, b"origin"):
            detail = "Requests of web pages are refused: runs are submitted by programs alone"
            await json_response({"detail": detail}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class RefuseForeignHosts:
    """Refuses what is meant for another host than this one, for a server that listens on loopback.

    The name of a web page can be made to lead to 127.0.0.1 once the page is loaded (DNS rebinding). Its requests are
    then of one origin, and need not carry the header `Origin`.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """`hosts`: in lower case, IPv6 addresses in brackets."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_meant(scope):
            names = ", ".join(sorted(self._hosts))
            detail = f"This coordinator listens on this machine alone and answers to the hosts {names}, not to others"
            await json_response({"detail": detail}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_meant(self, scope: Scope) -> bool:
        named = _values(scope, b"host")
        if not named:
            # HTTP/1.0 needs none, and no browser leaves it out.
            return bool(scope["http_version"] == "1.0")
        found = _HOST.fullmatch(named[0].lower())
        return len(named) == 1 and found is not None and found[1].decode("latin-1") in self._hosts


class DemandTokens:
    """Refuses what brings no token that `verifier` accepts."""

    def __init__(self, app: ASGIApp, verifier: "TokenVerifier") -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != OPEN_PATH:
            try:
                await self._verifier.check(_values(scope, b"authorization"))
            except Refusal as refusal:
                response = json_response({"detail": refusal.detail}, refusal.status)
                if refusal.status == 401:
                    response.headers["www-authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def local_hosts(host: str) -> frozenset[str]:
    """The hosts that clients of this machine name, and the one that the server was told to listen on."""
    host = host.lower()
    return LOCAL_HOSTS | {f"[{host}]" if ":" in host else host}


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]
