"""JSON responses. Every server answers an error with `{"detail": …}` (protocol.md, sections 1.1 and 3)."""

from collections.abc import Mapping

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(content), status, headers, media_type="application/json")


def error_response(status: int, detail: object, headers: Mapping[str, str] | None = None) -> Response:
    return json_response({"detail": detail}, status, headers)


def internal_error_response() -> Response:
    """Return a 500 that reveals nothing about the error; log the error."""
    return error_response(500, "Internal Server Error")


async def on_client_disconnect(_: Request, error: Exception) -> Response:
    """Handle a client that left while it was sending its body. No client receives this response."""
    if not isinstance(error, ClientDisconnect):
        raise error
    return Response(status_code=400)
