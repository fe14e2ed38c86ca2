"""The web application: from a request to the door that it came through."""

from collections.abc import Mapping

from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.gateway import paths
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.endpoint import GatewayEndpoint
from fsm_runner.gateway.errors import Refusal, not_found
from fsm_runner.gateway.headers import is_local_client, size_bytes
from fsm_runner.gateway.responses import hung_up, refused, unexpected
from fsm_runner.gateway.routes import carry_out
from fsm_runner.http_server.server import HEADERS_LIMIT_BYTES


class GatewayApp:
    """Lets in who has the address of an open door. Paths are matched below it, not by a router: see `paths.py`."""

    def __init__(self, api: CoordinatorApi, endpoints: Mapping[bytes, GatewayEndpoint]) -> None:
        """`endpoints` by their tokens, as they are at the moment of each request."""
        self._api = api
        self._doors = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = paths.split(scope.get("raw_path", b""))
        endpoint = None if path is None else self._doors.get(path.token)
        if path is None or endpoint is None or not is_local_client(scope["headers"], scope["http_version"]):
            raise not_found()
        # The server's own limit is for headers that come in pieces; those that come at once it takes as they are.
        if size_bytes(scope["headers"]) > HEADERS_LIMIT_BYTES:
            raise Refusal(431, f"The headers are larger than {HEADERS_LIMIT_BYTES:,} bytes")
        call = Call(endpoint, paths.names_of(path.segments), self._api, scope, receive, send)
        call.body.refuse_if_too_large()
        await carry_out(call)


def build_app(api: CoordinatorApi, endpoints: Mapping[bytes, GatewayEndpoint]) -> ASGIApp:
    handlers = {Refusal: refused, ClientDisconnect: hung_up}
    return ServerErrorMiddleware(ExceptionMiddleware(GatewayApp(api, endpoints), handlers), handler=unexpected)
