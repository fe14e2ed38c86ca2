"""ASGI middleware in front of the MCP SDK: addresses, methods and request bodies."""

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsm_runner.mcp_server.caller import PATH, SESSION_HEADER, Addresses
from fsm_runner.protocol.json_text import valid_json

_SESSION_HEADER = SESSION_HEADER.lower().encode()


class AddressMiddleware:
    """Passes on POST requests to a valid address, with the session of the address in the session header.

    The server keeps no MCP sessions, so a GET would open a stream without messages and a DELETE would have nothing to
    end. The MCP specification demands 405 for both, and clients continue without them.
    """

    def __init__(self, app: ASGIApp, addresses: Addresses, body_limit_bytes: int) -> None:
        """`app` refuses bodies above `body_limit_bytes`."""
        self._app = app
        self._addresses = addresses
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        session_id = self._addresses.session_of(path)
        app = self._app
        if session_id is None and not (self._addresses.open_to_all and path == PATH):
            app = Response("Not found. The MCP server has an address for each session\n", 404)
        elif scope["method"] != "POST":
            app = Response("Method not allowed\n", 405, headers={"Allow": "POST"})
        else:
            receive = _with_sound_body(receive, self._body_limit_bytes)
            if session_id is not None:
                scope = _with_session(scope, session_id)
        await app(scope, receive, send)


def _with_sound_body(receive: Receive, limit_bytes: int) -> Receive:
    """Deliver the body as one message, without the lone surrogates that Python clients send and the SDK rejects."""
    is_read = False

    async def receive_sound() -> Message:
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
        return {"type": "http.request", "body": valid_json(bytes(body)), "more_body": more}

    return receive_sound


def _with_session(scope: Scope, session_id: str) -> Scope:
    others = [(name, value) for name, value in scope["headers"] if name != _SESSION_HEADER]
    headers = [*others, (_SESSION_HEADER, session_id.encode(errors="surrogatepass"))]
    return {**scope, "path": PATH, "raw_path": PATH.encode(), "headers": headers}
