"""Calls that are passed on to the coordinator, with the runner's credentials: protocol.md, section 3."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from loguru import logger
from starlette.responses import Response

from fsm_runner.coordinator_client.decompression import PLAIN, READABLE, encoding_of
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.coordinator_client.policy import ANSWER_LIMIT_BYTES
from fsm_runner.coordinator_client.response_body import READ_FAULTS, chunks_of
from fsm_runner.gateway import headers
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.errors import AnswerBroken, Refusal, away
from fsm_runner.gateway.paths import url_path
from fsm_runner.util.text import excerpt


async def pass_on(call: Call, query: dict[str, str] | None = None) -> None:
    """The call as it is, its body as it comes in and the answer as it comes back. Raises a 502 `Refusal`."""
    sent = headers.to_coordinator(call.headers)
    content = call.body.chunks() if call.method == "POST" and call.body.exists else None
    async with _open(call, call.method, url_path(call.names, query), sent, content) as response:
        call.body.let_go()
        await _stream(call, response)


async def look_up(call: Call, names: tuple[str, ...]) -> httpx.Response:
    """What the coordinator has under this path, read to its end. Raises a 502 `Refusal` where it cannot be asked."""
    try:
        async with (
            asyncio.timeout(call.endpoint.limits.look_up_s),
            _open(call, "GET", url_path(names), [("accept-encoding", PLAIN)], None) as response,
        ):
            body = await _read(response)
    except TimeoutError:
        raise away() from None
    return httpx.Response(response.status_code, content=body)


async def submit(call: Call, body: bytes) -> bytes | None:
    """A POST of this JSON to the call's own path, answered with what the coordinator says; its body, if it is a 2xx."""
    sent = headers.to_coordinator(call.headers, accept_any_encoding=False)
    sent = [(name, value) for name, value in sent if name != "content-type"]
    sent.append(("content-type", "application/json"))
    async with _open(call, "POST", url_path(call.names), sent, body) as response:
        content = await _read(response)
    passed_on = Response(content, status_code=response.status_code)
    passed_on.raw_headers.extend(headers.to_executor(response.headers.raw, body_rewritten=True))
    await call.answer(passed_on)
    return content if response.is_success else None


@asynccontextmanager
async def _open(
    call: Call, method: str, path: str, sent: list[tuple[str, str]], content: bytes | AsyncIterator[bytes] | None
) -> AsyncIterator[httpx.Response]:
    try:
        async with call.api.forward(method, path, sent, content) as response:
            yield response
    except Refused as refusal:
        if refusal.status == httpx.codes.REQUEST_URI_TOO_LONG:
            raise Refusal(414, "The path is too long") from None
        # It is the token service that says no, to the runner: that is no business of executors.
        raise _away(refusal) from None
    except CoordinatorError as fault:
        raise _away(fault) from None


def _away(fault: CoordinatorError) -> Refusal:
    logger.debug("gateway: a call of an executor is not passed on: {}", excerpt(str(fault)))
    return away()


async def _stream(call: Call, response: httpx.Response) -> None:
    # An answer that the credentials had to look at has been read, and unpacked, already.
    was_read = response.is_stream_consumed
    encoding = encoding_of(response)
    # Some proxies compress an answer that was requested without compression. The executor could not read it.
    is_unasked = encoding in READABLE and not headers.accepts(call.headers, encoding)
    is_rewritten = was_read or is_unasked
    sent = headers.to_executor(response.headers.raw, body_rewritten=is_rewritten)
    await call.send({"type": "http.response.start", "status": response.status_code, "headers": sent})
    try:
        async for chunk in chunks_of(response) if is_rewritten else response.aiter_raw():
            await call.send({"type": "http.response.body", "body": chunk, "more_body": True})
    except READ_FAULTS as fault:
        raise AnswerBroken(f"an answer of the coordinator broke off: {fault!r}") from fault
    await call.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    try:
        async for chunk in chunks_of(response):
            body += chunk
            if len(body) > ANSWER_LIMIT_BYTES:
                raise Refusal(502, f"The Agent Coordinator's answer is larger than {ANSWER_LIMIT_BYTES:,} bytes")
    except READ_FAULTS:
        raise away() from None
    return bytes(body)
