"""The web application: the routes, and how errors are answered."""

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from fsm_runner.coordinator_server.auth.guards import DemandTokens, RefuseBrowsers, RefuseForeignHosts
from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.coordinator_server.http import routes_client, routes_runner
from fsm_runner.coordinator_server.http.responses import http_error, hung_up, refused, troubled, unexpected
from fsm_runner.coordinator_server.store.database_errors import DatabaseTrouble

if TYPE_CHECKING:
    from fsm_runner.coordinator_server.auth.tokens import TokenVerifier


def build_app(
    coordinator: Coordinator, hosts: frozenset[str] | None = None, verifier: "TokenVerifier | None" = None
) -> Starlette:
    """`hosts`: those that requests may be meant for; None: any. `verifier`: of the tokens they bring; None: none."""
    # In the order in which they look at a request.
    guards = [Middleware(RefuseBrowsers)]
    if hosts is not None:
        guards.insert(0, Middleware(RefuseForeignHosts, hosts))
    if verifier is not None:
        guards.append(Middleware(DemandTokens, verifier))
    app = Starlette(
        routes=[*routes_runner.ROUTES, *routes_client.ROUTES],
        middleware=guards,
        exception_handlers={
            Refusal: refused,
            DatabaseTrouble: troubled,
            HTTPException: http_error,
            ClientDisconnect: hung_up,
            Exception: unexpected,
        },
    )
    app.state.coordinator = coordinator
    return app
