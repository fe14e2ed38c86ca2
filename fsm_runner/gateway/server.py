"""The gateway as a server on a free port of 127.0.0.1, inside the runner's event loop."""

import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial

from loguru import logger
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.executors.interface import SessionEndpoint
from fsm_runner.gateway import paths
from fsm_runner.gateway.endpoint import LIMITS, GatewayEndpoint, GatewayLimits
from fsm_runner.gateway.errors import GatewayError, ResponseInterrupted, not_found
from fsm_runner.gateway.request import GatewayRequest, RawHeaders
from fsm_runner.gateway.routes import handle
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.listener import listen
from fsm_runner.http_server.responses import error_response, internal_error_response, on_client_disconnect
from fsm_runner.http_server.server import HEADERS_LIMIT_BYTES, WebServer
from fsm_runner.reporting.session_channel import SessionChannel
from fsm_runner.util.text import excerpt

HOST = "127.0.0.1"
TOKEN_BYTES = 32

_LOCAL_HOST = re.compile(rb"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)


class Gateway:
    """The endpoints of a runner's sessions (`EndpointRegistry`). An async context manager."""

    def __init__(
        self,
        api: CoordinatorApi,
        limits: GatewayLimits = LIMITS,
        wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app,
        child_bounds: ChildBounds = unbounded,
    ) -> None:
        """`wrap` adds middleware that sees all requests and responses. `child_bounds` limits the starts of children."""
        self._api = api
        self._wrap = wrap
        self._limits = limits
        self._child_bounds = child_bounds
        self._endpoints: dict[bytes, GatewayEndpoint] = {}
        self._web: WebServer | None = None

    async def __aenter__(self) -> "Gateway":
        bounds = Bounds(
            max_connections=self._limits.connections,
            served_at_once=min(self._limits.served_at_once, self._limits.connections // 2),
            client_of=self._token_of,
        )
        web = WebServer(self._wrap(build_app(self._api, self._endpoints)), await listen(HOST, 0), bounds)
        try:
            await web.start()
        except BaseException:
            web.stop_listening()
            raise
        self._web = web
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all endpoints. Requests in progress end within the server's `REQUESTS_END_WITHIN_S`."""
        for endpoint in list(self._endpoints.values()):
            endpoint.close()
        web, self._web = self._web, None
        if web is not None:
            await web.stop()

    def open(self, session_id: str, channel: SessionChannel) -> SessionEndpoint:
        """Open an endpoint for the session. Its other endpoints stay open."""
        if self._web is None:
            raise RuntimeError("the gateway is not started")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        key = token.encode("ascii")
        forget = partial(self._endpoints.pop, key, None)
        url = f"{self._web.url}/{token}"
        endpoint = GatewayEndpoint(session_id, channel, url, self._limits, forget, self._child_bounds)
        self._endpoints[key] = endpoint
        return endpoint

    def _token_of(self, scope: Scope) -> bytes | None:
        """Return the token in the request's path; None if it belongs to no endpoint."""
        path = paths.split(scope.get("raw_path", b""))
        return path.token if path is not None and path.token in self._endpoints else None


def build_app(api: CoordinatorApi, endpoints: Mapping[bytes, GatewayEndpoint]) -> ASGIApp:
    """Return the ASGI application. `endpoints` maps tokens to the endpoints that are open at present."""

    # It matches paths itself (see `paths.py`): a router would decode them differently.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = paths.split(scope.get("raw_path", b""))
        endpoint = None if path is None else endpoints.get(path.token)
        if path is None or endpoint is None or not is_local_client(scope["headers"], scope["http_version"]):
            raise not_found()
        # The web server limits only headers that arrive in several pieces.
        if sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"]) > HEADERS_LIMIT_BYTES:
            raise GatewayError(431, f"The headers are larger than {HEADERS_LIMIT_BYTES:,} bytes")
        request = GatewayRequest(endpoint, paths.decode_names(path.segments), api, scope, receive, send)
        request.body.refuse_if_too_large()
        await handle(request)

    handlers = {GatewayError: _on_gateway_error, ClientDisconnect: on_client_disconnect}
    return ServerErrorMiddleware(ExceptionMiddleware(app, handlers), handler=_on_defect)


def is_local_client(headers: RawHeaders, http_version: str) -> bool:
    """Return whether a request comes neither from a web page nor through a host name of the DNS.

    HTTP/1.0 allows a request without `Host`; browsers always send the header. `http_version` is ASGI's: "1.0", "1.1".
    """
    if any(name == b"origin" for name, _ in headers):
        return False
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts:
        return http_version == "1.0"
    return len(hosts) == 1 and _LOCAL_HOST.fullmatch(hosts[0]) is not None


async def _on_gateway_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, GatewayError):
        raise error
    return error_response(error.status, error.detail, {"connection": "close"} if error.close else None)


async def _on_defect(request: Request, error: Exception) -> Response:
    """Log the error without the path: it contains the endpoint's token."""
    if isinstance(error, ResponseInterrupted):
        logger.debug("gateway: {}", error)
    else:
        logger.opt(exception=error).error("gateway: a {} request could not be answered", excerpt(request.method))
    return internal_error_response()
