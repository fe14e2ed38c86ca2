"""Responses, and how errors are answered."""

import msgspec
from loguru import logger
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fsm_runner.gateway.errors import AnswerBroken, Refusal
from fsm_runner.util.text import excerpt

_encode = msgspec.json.Encoder().encode


def json_response(content: object, status: int = 200) -> Response:
    return json_bytes(_encode(content), status)


def json_bytes(content: bytes, status: int) -> Response:
    return Response(content, status_code=status, media_type="application/json")


async def refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    response = json_response({"detail": error.detail}, error.status)
    if error.close:
        response.headers["connection"] = "close"
    return response


async def hung_up(_: Request, error: Exception) -> Response:
    """The client left while it was sending: nobody reads this."""
    if not isinstance(error, ClientDisconnect):
        raise error
    return Response(status_code=400)


async def unexpected(request: Request, error: Exception) -> Response:
    """The path stays out of the log: it begins with what opens the door."""
    if isinstance(error, AnswerBroken):
        logger.debug("gateway: {}", error)
    else:
        logger.opt(exception=error).error("gateway: a {} call could not be answered", excerpt(request.method))
    return json_response({"detail": "Internal Server Error"}, 500)
