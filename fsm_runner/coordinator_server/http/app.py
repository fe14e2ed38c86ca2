"""The web application: guard, routes and error handlers."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import RequestError
from fsm_runner.coordinator_server.http import routes_approval, routes_client, routes_runner
from fsm_runner.coordinator_server.http.guards import CheckToken, Guard
from fsm_runner.coordinator_server.http.responses import on_defect, on_http_exception, on_request_error
from fsm_runner.http_server.responses import on_client_disconnect


def build_app(coordinator: Coordinator, hosts: frozenset[str] | None, check_token: CheckToken | None) -> Starlette:
    """`hosts` are those that requests may name; None: any. `check_token` None: requests need no token."""
    app = Starlette(
        routes=[*routes_runner.ROUTES, *routes_client.ROUTES, *routes_approval.ROUTES],
        middleware=[Middleware(Guard, hosts, check_token)],
        exception_handlers={
            RequestError: on_request_error,
            HTTPException: on_http_exception,
            ClientDisconnect: on_client_disconnect,
            Exception: on_defect,
        },
    )
    app.state.coordinator = coordinator
    return app
