"""Requests that the gateway forwards to the coordinator with the runner's credentials: protocol.md, section 3.

A header is forwarded if it is for the other end and is not a credential.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import httpx
from loguru import logger
from starlette.responses import Response

from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.coordinator_client.policy import RESPONSE_LIMIT_BYTES
from fsm_runner.coordinator_client.response_body import PLAIN, READ_ERRORS, SUPPORTED_ENCODINGS, chunks_of, encoding_of
from fsm_runner.gateway.errors import GatewayError, ResponseInterrupted, coordinator_unreachable
from fsm_runner.gateway.paths import url_path
from fsm_runner.gateway.request import GatewayRequest, RawHeaders
from fsm_runner.protocol.error_bodies import has_detail
from fsm_runner.protocol.fencing import ATTEMPT_HEADER, REGISTRATION_HEADER, RUN_HEADER
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.util.text import excerpt

Form = TypeVar("Form")

HOP_BY_HOP = frozenset(
    b"connection http2-settings keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
    b" transfer-encoding upgrade".split()
)
OF_THIS_REQUEST = frozenset({b"host", b"content-length", b"expect", b"referer"})
"""Headers about the request to the gateway. A referrer would reveal the endpoint's URL."""
CREDENTIALS = frozenset({b"authorization", b"cookie"})
"""Executors have none. The coordinator client adds the runner's."""
MISLEADING = frozenset(
    b"forwarded x-http-method x-http-method-override x-method-override x-original-url x-real-ip x-rewrite-url".split()
)
"""Headers by which some servers change a request's method, path or client."""
MISLEADING_PREFIX = b"x-forwarded-"
OF_THE_RUNNER = frozenset(name.lower().encode() for name in (REGISTRATION_HEADER, RUN_HEADER, ATTEMPT_HEADER))
"""Headers by which a coordinator recognizes calls of the runner. An executor makes calls of its own."""
OF_THE_COORDINATORS_ADDRESS = frozenset(
    {b"set-cookie", b"set-cookie2", b"location", b"www-authenticate", b"alt-svc", b"refresh"}
)
"""Response headers that ask for credentials or lead to addresses outside the gateway."""


async def forward(request: GatewayRequest, query: dict[str, str] | None = None) -> None:
    """Stream the request to the coordinator and its response back. Raises a 502 `GatewayError`."""
    headers = to_coordinator(request.headers)
    content = request.body.chunks() if request.method == "POST" and request.body.exists else None
    async with _open(request, request.method, url_path(request.names, query), headers, content) as response:
        request.body.discard()
        await _stream(request, response)


async def look_up(request: GatewayRequest, names: tuple[str, ...], form: type[Form]) -> Form | None:
    """Return the coordinator's resource at this path; None if there is none.

    Raises a 502 `GatewayError`, also if a proxy and not the coordinator wrote the response.
    """
    try:
        async with (
            asyncio.timeout(request.endpoint.limits.look_up_s),
            _open(request, "GET", url_path(names), [("accept-encoding", PLAIN)], None) as response,
        ):
            body = await _read(response)
    except TimeoutError:
        raise coordinator_unreachable() from None
    if response.status_code in {httpx.codes.NOT_FOUND, httpx.codes.UNPROCESSABLE_ENTITY} and has_detail(body):
        return None
    if response.is_success:
        with suppress(*DECODE_FAULTS):
            return decode_json(body, form)
    raise coordinator_unreachable()


async def submit(request: GatewayRequest, body: bytes, on_accepted: Callable[[bytes], object]) -> None:
    """POST this JSON to the request's path and answer with the response.

    `on_accepted` gets the body of a 2xx before the executor, which may disconnect then.
    """
    headers = to_coordinator(request.headers, without=frozenset({b"accept-encoding", b"content-type"}))
    headers.append(("content-type", "application/json"))
    async with _open(request, "POST", url_path(request.names), headers, body) as response:
        content = await _read(response)
    if response.is_success:
        on_accepted(content)
    forwarded = Response(content, status_code=response.status_code)
    forwarded.raw_headers.extend(to_executor(response.headers.raw, body_rewritten=True))
    await request.respond(forwarded)


def to_coordinator(headers: RawHeaders, *, without: frozenset[bytes] = frozenset()) -> list[tuple[str, str]]:
    """Return the request headers to forward, also without those that the caller names."""
    headers = list(headers)
    dropped = _hop_by_hop(headers) | OF_THIS_REQUEST | CREDENTIALS | MISLEADING | OF_THE_RUNNER | without
    forwarded = [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(MISLEADING_PREFIX)
    ]
    if not any(name == "accept-encoding" for name, _ in forwarded):
        # Without the header, the HTTP client asks for the encodings that it can decode itself.
        forwarded.append(("accept-encoding", "identity"))
    return forwarded


def to_executor(headers: RawHeaders, *, body_rewritten: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the response headers to forward. `body_rewritten` drops the length and encoding of the original body."""
    headers = list(headers)
    dropped = _hop_by_hop(headers) | OF_THE_COORDINATORS_ADDRESS
    if body_rewritten:
        dropped |= {b"content-length", b"content-encoding"}
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]


def accepts(headers: RawHeaders, encoding: str) -> bool:
    """Return whether the `Accept-Encoding` of a request permits this content encoding."""
    offers = b",".join(value for name, value in headers if name == b"accept-encoding").decode("latin-1").lower()
    permitted = {}
    for offer in offers.split(","):
        name, _, parameters = offer.partition(";")
        permitted[name.strip()] = re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", parameters) is None
    return permitted.get(encoding, permitted.get("*", False))


def _hop_by_hop(headers: RawHeaders) -> frozenset[bytes]:
    """Return the hop-by-hop headers, including those that `Connection` names."""
    named = {
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    }
    return HOP_BY_HOP | named


@asynccontextmanager
async def _open(
    request: GatewayRequest,
    method: str,
    path: str,
    headers: list[tuple[str, str]],
    content: bytes | AsyncIterator[bytes] | None,
) -> AsyncIterator[httpx.Response]:
    try:
        async with request.api.forward(method, path, headers, content) as response:
            yield response
    except CoordinatorError as fault:
        if isinstance(fault, Refused) and fault.status == httpx.codes.REQUEST_URI_TOO_LONG:
            raise GatewayError(414, "The path is too long") from None
        # Any other `Refused` comes from the token service and concerns the runner, not the executor.
        session_id = excerpt(request.endpoint.session_id)
        logger.debug("gateway: {}: a request was not forwarded: {}", session_id, excerpt(str(fault)))
        raise coordinator_unreachable() from None


async def _stream(request: GatewayRequest, response: httpx.Response) -> None:
    # The auth flow has already read and decompressed a response that it had to inspect.
    was_read = response.is_stream_consumed
    encoding = encoding_of(response)
    # Some proxies compress a response although the request did not allow it. The executor could not decode it.
    is_unrequested = encoding in SUPPORTED_ENCODINGS and not accepts(request.headers, encoding)
    is_rewritten = was_read or is_unrequested
    headers = to_executor(response.headers.raw, body_rewritten=is_rewritten)
    await request.send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    try:
        async for chunk in chunks_of(response) if is_rewritten else response.aiter_raw():
            await request.send({"type": "http.response.body", "body": chunk, "more_body": True})
    except READ_ERRORS as fault:
        raise ResponseInterrupted(f"a response of the coordinator ended early: {fault!r}") from fault
    await request.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    try:
        async for chunk in chunks_of(response):
            body += chunk
            if len(body) > RESPONSE_LIMIT_BYTES:
                detail = f"The Agent Coordinator's response is larger than {RESPONSE_LIMIT_BYTES:,} bytes"
                raise GatewayError(502, detail)
    except READ_ERRORS:
        raise coordinator_unreachable() from None
    return bytes(body)
