"""The web application: the routes, and how errors are answered."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.coordinator.embedded import routes_client, routes_runner
from fsm_runner.coordinator.embedded.answers import http_error, hung_up, json_response, refused, unexpected
from fsm_runner.coordinator.embedded.coordinator import Coordinator
from fsm_runner.coordinator.embedded.refusal import Refusal


class RefuseBrowsers:
    """Refuses what carries an `Origin` header.

    There is no authentication, and a run executes commands: without this, any web page that its user looks at could
    submit one to 127.0.0.1. Runners, executors and command-line tools never send the header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            detail = "Requests of web pages are refused: this coordinator has no authentication"
            await json_response({"detail": detail}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def build_app(coordinator: Coordinator) -> Starlette:
    app = Starlette(
        routes=[*routes_runner.ROUTES, *routes_client.ROUTES],
        middleware=[Middleware(RefuseBrowsers)],
        exception_handlers={
            Refusal: refused,
            HTTPException: http_error,
            ClientDisconnect: hung_up,
            Exception: unexpected,
        },
    )
    app.state.coordinator = coordinator
    return app
