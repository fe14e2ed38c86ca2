"""What stands before the SDK: where requests go, whose they are, and which are none of its business."""

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsm_runner.mcp_server.addresses import PATH, Addresses
from fsm_runner.mcp_server.caller import SESSION_HEADER
from fsm_runner.protocol.json_text import sound_json

_SESSION_HEADER = SESSION_HEADER.lower().encode()


class Front:
    """Lets POST to an address through.

    There are no sessions of MCP: nothing could ever be said on the stream that a GET asks for, and a DELETE has
    nothing to end. The MCP specification has 405 for both, and clients go on without.
    """

    def __init__(self, app: ASGIApp, addresses: Addresses, body_limit_bytes: int) -> None:
        """`body_limit_bytes`: of a request; `app` refuses more."""
        self._app = app
        self._addresses = addresses
        self._body_limit_bytes = body_limit_bytes

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
            receive = _with_sound_body(receive, self._body_limit_bytes)
            if session_id is not None:
                scope = _of_session(scope, session_id)
        await answer(scope, receive, send)


def _with_sound_body(receive: Receive, limit_bytes: int) -> Receive:
    """The body in one piece, without the lone surrogates that clients in Python send and the SDK refuses."""
    is_read = False

    async def received() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        body, more = bytearray(), True
        while more and len(body) <= limit_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return {"type": "http.request", "body": sound_json(bytes(body)), "more_body": more}

    return received


def _of_session(scope: Scope, session_id: str) -> Scope:
    """The request as the session's own."""
    others = [(name, value) for name, value in scope["headers"] if name != _SESSION_HEADER]
    headers = [*others, (_SESSION_HEADER, session_id.encode(errors="surrogatepass"))]
    return {**scope, "path": PATH, "raw_path": PATH.encode(), "headers": headers}
