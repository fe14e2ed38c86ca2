"""What stands before the SDK: where requests go, whose they are, and which are none of its business."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fsm_runner.mcp_server.addresses import PATH, Addresses
from fsm_runner.mcp_server.caller import SESSION_HEADER

_SESSION_HEADER = SESSION_HEADER.lower().encode()


class Front:
    """Lets POST to an address through.

    There are no sessions of MCP: nothing could ever be said on the stream that a GET asks for, and a DELETE has
    nothing to end. The MCP specification has 405 for both, and clients go on without.
    """

    def __init__(self, app: ASGIApp, addresses: Addresses) -> None:
        self._app = app
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await Response(status_code=404)(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        session_id = self._addresses.session_of(path)
        if session_id is None and not self._addresses.is_open_to_all(path):
            answer: ASGIApp = Response("Not found. The MCP server has an address for each session\n", 404)
        elif scope["method"] != "POST":
            answer = Response("Method not allowed\n", 405, headers={"Allow": "POST"})
        else:
            answer = self._app
            if session_id is not None:
                scope = _of_session(scope, session_id)
        await answer(scope, receive, send)


def _of_session(scope: Scope, session_id: str) -> Scope:
    """The request as the session's own."""
    others = [(name, value) for name, value in scope["headers"] if name != _SESSION_HEADER]
    headers = [*others, (_SESSION_HEADER, session_id.encode(errors="surrogatepass"))]
    return {**scope, "path": PATH, "raw_path": PATH.encode(), "headers": headers}
