"""The bodies of answers, in pieces, so that a limit on their size holds before they are in memory."""

import ssl
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar
from typing import Any

import httpx

from fsm_runner.coordinator_client.decompression import PLAIN, READABLE, encoding_of, unpacked

READ_FAULTS = (httpx.HTTPError, ssl.SSLError)
"""What reading from a server raises. httpx translates the errors of TLS in a handshake, but not those after it, such as
the alert of a server that demands a certificate of its clients."""


async def chunks_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body, unpacked, as it comes in, or as it was read already. Raises one of `READ_FAULTS`."""
    if answer.is_stream_consumed:
        yield answer.content
        return
    encoding = encoding_of(answer)
    raw = answer.aiter_raw()
    async for chunk in raw if encoding == PLAIN else unpacked(raw, encoding):
        yield chunk


async def bound(answer: httpx.Response, limit_bytes: int) -> None:
    """Limit a body that httpx reads as a whole afterwards: that raises `httpx.DecodingError` if it is too large or
    broken. A body with an encoding that cannot be unpacked is dropped."""
    stream = answer.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        return
    encoding = encoding_of(answer)
    if encoding == PLAIN:
        answer.stream = _Bounded(stream, limit_bytes)
    elif encoding in READABLE:
        answer.stream = _Bounded(stream, limit_bytes, encoding)
        # Otherwise httpx would unpack it a second time.
        del answer.headers["content-encoding"]
    else:
        await stream.aclose()
        answer.stream = httpx.ByteStream(b"")


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, limit_bytes: int, encoding: str = PLAIN) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._encoding = encoding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = self._limit_bytes
        raw = aiter(self._stream)
        async for chunk in raw if self._encoding == PLAIN else unpacked(raw, self._encoding):
            left_bytes -= len(chunk)
            if left_bytes < 0:
                raise httpx.DecodingError(f"the answer is larger than {self._limit_bytes:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class NoCookies(CookieJar):
    """Keeps none: the protocol has no cookies, and a jar would take any number of them and send them all along."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass
