"""Reading requests: the coordinator, the body and the query."""

import asyncio
import re
from typing import TypeVar

from starlette.requests import Request

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.errors import InvalidField
from fsm_runner.coordinator_server.http.responses import BodyTimeout, BodyTooLarge
from fsm_runner.coordinator_server.http.schemas import convert, decode_object
from fsm_runner.coordinator_server.store.interface import LIST_LIMIT, Author, Page, RunFilter
from fsm_runner.protocol.event_clock import utc_from
from fsm_runner.protocol.fencing import ATTEMPT_HEADER, REGISTRATION_HEADER, RUN_HEADER
from fsm_runner.protocol.json_text import valid_json
from fsm_runner.protocol.wire import JsonObject

T = TypeVar("T")

BODY_LIMIT_BYTES = 64 * 1024 * 1024
"""More than the largest result event: two outputs of 4 MiB, each byte of which JSON may encode as six."""
BODY_LIMIT_S = 60.0
"""The longest time in which a body may arrive."""

_NUMBER = re.compile(r"[0-9]{1,18}")


def coordinator_of(request: Request) -> Coordinator:
    coordinator: Coordinator = request.app.state.coordinator
    return coordinator


async def body_of(request: Request) -> bytes:
    """Return a JSON body. Raises `BodyTooLarge` (for the announced size too) or `BodyTimeout`."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > BODY_LIMIT_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise BodyTimeout(f"The body has not arrived within {BODY_LIMIT_S:g} s") from None
    return valid_json(bytes(body))


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {BODY_LIMIT_BYTES} bytes")


async def object_of(request: Request) -> JsonObject:
    """Return the body as a JSON object. Raises `InvalidField` and what `body_of` raises."""
    return decode_object(await body_of(request))


async def body_as(request: Request, form: type[T]) -> T:
    """Return the body as a Struct. Raises `InvalidField` and what `body_of` raises."""
    return convert(await object_of(request), form)


def registration_of(request: Request) -> int | None:
    """Return the number of the caller's registration; None: it sends none. Raises `InvalidField`."""
    return _number(["header", REGISTRATION_HEADER], request.headers.get(REGISTRATION_HEADER))


def attempt_of(request: Request) -> int | None:
    """Return the attempt of the run that the caller has; None: it sends none. Raises `InvalidField`."""
    return _number(["header", ATTEMPT_HEADER], request.headers.get(ATTEMPT_HEADER))


def author_of(request: Request) -> Author:
    """Raises `InvalidField`."""
    return Author(
        run_id=request.headers.get(RUN_HEADER), attempt=attempt_of(request), registration=registration_of(request)
    )


def page_of(request: Request) -> Page | None:
    """Return the requested page; None: the list is not paged. Raises `InvalidField`."""
    query = request.query_params
    limit = _number(["query", "limit"], query.get("limit"))
    if limit is None:
        return None
    if not 1 <= limit <= LIST_LIMIT:
        raise InvalidField(["query", "limit"], f"Input should be between 1 and {LIST_LIMIT}")
    return Page(limit=limit, after=_number(["query", "after"], query.get("after")))


def run_filter_of(request: Request) -> RunFilter:
    """Raises `InvalidField`."""
    chosen = {name: request.query_params.get(name) for name in RunFilter.__struct_fields__}
    if chosen["created_after"] is not None:
        try:
            chosen["created_after"] = utc_from(chosen["created_after"])
        except ValueError as error:
            raise InvalidField(["query", "created_after"], str(error)) from None
    return RunFilter(**chosen)


def _number(location: list[str], text: str | None) -> int | None:
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise InvalidField(location, "Input should be an integer of at most 18 digits", "int_parsing")
    return int(text)


def required_query(request: Request, name: str) -> str:
    """Raises `InvalidField` if the query has no such parameter."""
    value = request.query_params.get(name)
    if value is None:
        raise InvalidField(["query", name], "Field required", "missing")
    return value
