"""Error responses: the status code of each error."""

from collections.abc import Mapping

from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fsm_runner.coordinator_server import errors
from fsm_runner.coordinator_server.errors import RequestError
from fsm_runner.http_server.responses import error_response, internal_error_response


class BodyTimeout(RequestError):
    """The body of a request arrived too slowly."""


class BodyTooLarge(RequestError):
    pass


STATUSES: Mapping[type[RequestError], int] = {
    errors.InvalidRequest: 400,
    errors.NotAuthenticated: 401,
    errors.RunnerNotRegistered: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    BodyTimeout: 408,
    errors.Conflict: 409,
    BodyTooLarge: 413,
    errors.InvalidField: 422,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
}


def status_of(error: RequestError) -> int:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


async def on_request_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    return error_response(status_of(error), error.detail)


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Answer what the router refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    return error_response(error.status_code, error.detail, error.headers)


async def on_defect(request: Request, error: Exception) -> Response:
    logger.opt(exception=error).error("coordinator: {} {} could not be answered", request.method, request.url.path)
    return internal_error_response()
