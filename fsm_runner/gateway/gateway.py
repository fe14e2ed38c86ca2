"""The gateway as a server: started and stopped inside the runner's event loop, on a free port of 127.0.0.1."""

import secrets
from collections.abc import Callable
from types import TracebackType

from starlette.types import ASGIApp, Scope

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.executors.interface import SessionEndpoint
from fsm_runner.gateway import paths
from fsm_runner.gateway.app import build_app
from fsm_runner.gateway.endpoint import GatewayEndpoint
from fsm_runner.gateway.limits import LIMITS, GatewayLimits
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.listener import listen
from fsm_runner.http_server.server import WebServer
from fsm_runner.reporting.session_channel import SessionChannel

HOST = "127.0.0.1"
TOKEN_BYTES = 32


class Gateway:
    """The endpoints of a runner's sessions (`EndpointRegistry`). An async context manager, or `start` and `aclose`."""

    def __init__(
        self, api: CoordinatorApi, limits: GatewayLimits = LIMITS, wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app
    ) -> None:
        """`wrap`: for who wants to see what passes."""
        self._api = api
        self._wrap = wrap
        self._limits = limits
        self._doors: dict[bytes, GatewayEndpoint] = {}
        self._web: WebServer | None = None

    async def start(self) -> None:
        bounds = Bounds(
            max_connections=self._limits.connections,
            served_at_once=min(self._limits.served_at_once, self._limits.connections // 2),
            runner_tag=self._token_of,
        )
        web = WebServer(self._wrap(build_app(self._api, self._doors)), await listen(HOST, 0), bounds)
        try:
            await web.start()
        except BaseException:
            web.stop_listening()
            raise
        self._web = web

    async def aclose(self) -> None:
        """All doors are closed; calls that are at work end within the server's `REQUESTS_END_WITHIN_S`."""
        for endpoint in list(self._doors.values()):
            endpoint.close()
        web, self._web = self._web, None
        if web is not None:
            await web.stop()

    async def __aenter__(self) -> "Gateway":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def open(self, session_id: str, channel: SessionChannel) -> SessionEndpoint:
        """One more way to the session; those that are open already stay so."""
        if self._web is None:
            raise RuntimeError("the gateway is not started")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        key = token.encode("ascii")
        endpoint = GatewayEndpoint(
            session_id, channel, f"{self._web.url}/{token}", self._limits, lambda: self._forget(key)
        )
        self._doors[key] = endpoint
        return endpoint

    def _token_of(self, scope: Scope) -> bytes | None:
        """The token in the address of the request; None if it is no session's."""
        path = paths.split(scope.get("raw_path", b""))
        return path.token if path is not None and path.token in self._doors else None

    def _forget(self, key: bytes) -> None:
        self._doors.pop(key, None)
