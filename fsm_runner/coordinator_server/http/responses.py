"""Responses, and the pieces of a request that every route needs."""

import asyncio

import msgspec
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import Refusal, invalid_field
from fsm_runner.coordinator_server.http.schemas import decode_object
from fsm_runner.coordinator_server.store.database_errors import DatabaseTrouble
from fsm_runner.protocol.json_text import sound_json
from fsm_runner.protocol.wire import JsonObject

BODY_LIMIT_BYTES = 64 * 1024 * 1024
"""Above the largest result event: two outputs of 4 MiB, each byte of which JSON may write as six."""
BODY_WITHIN_S = 60.0
"""How long a body may take to arrive; a slower one is answered with 408."""

OK: JsonObject = {"ok": True}

_encode = msgspec.json.Encoder().encode


def json_response(content: object, status: int = 200) -> Response:
    return Response(_encode(content), status_code=status, media_type="application/json")


def coordinator_of(request: Request) -> Coordinator:
    coordinator: Coordinator = request.app.state.coordinator
    return coordinator


async def body_of(request: Request) -> bytes:
    """A body of JSON.

    Raises a 413 Refusal above `BODY_LIMIT_BYTES`, announced or sent, and a 408 one after `BODY_WITHIN_S`.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > BODY_LIMIT_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise Refusal(408, f"The body has not arrived within {BODY_WITHIN_S:g} s") from None
    return sound_json(bytes(body))


def _too_large() -> Refusal:
    return Refusal(413, f"The body is larger than {BODY_LIMIT_BYTES} bytes")


async def object_of(request: Request) -> JsonObject:
    """The body as a JSON object. Raises a 422 Refusal, and those of `body_of`."""
    return decode_object(await body_of(request))


def required_query(request: Request, name: str) -> str:
    """Raises a 422 Refusal."""
    value = request.query_params.get(name)
    if value is None:
        raise invalid_field(["query", name], "Field required", "missing")
    return value


async def refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    return json_response({"detail": error.detail}, error.status)


async def troubled(_: Request, error: Exception) -> Response:
    """The database cannot be used at the moment; the worker has logged it."""
    if not isinstance(error, DatabaseTrouble):
        raise error
    return json_response({"detail": str(error)}, error.status)


async def http_error(_: Request, error: Exception) -> Response:
    """What the routing refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    response = json_response({"detail": error.detail}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def hung_up(_: Request, error: Exception) -> Response:
    """The client left while it was sending: nobody reads this."""
    if not isinstance(error, ClientDisconnect):
        raise error
    return Response(status_code=400)


async def unexpected(request: Request, error: Exception) -> Response:
    logger.opt(exception=error).error("coordinator: {} {} could not be answered", request.method, request.url.path)
    return json_response({"detail": "Internal Server Error"}, 500)
