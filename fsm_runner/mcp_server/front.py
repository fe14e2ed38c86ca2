"""What stands before the SDK: where requests go, and which are none of its business."""

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/mcp"


class Front:
    """Lets `POST /mcp` through.

    There are no sessions: nothing could ever be said on the stream that a GET asks for, and a DELETE has nothing to
    end. The MCP specification has 405 for both, and clients go on without.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope)(scope, receive, send)

    def _handler(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        if scope["type"] != "http":
            return Response(status_code=404)
        if scope["path"].rstrip("/") != PATH:
            return Response(f"Not found. The MCP server is at {PATH}\n", 404)
        if scope["method"] != "POST":
            return Response("Method not allowed\n", 405, headers={"Allow": "POST"})
        return self._app
