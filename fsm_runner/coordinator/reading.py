"""The bodies of answers. No more of one is in memory than has come over the line.

Nothing is asked for that is compressed, and what is compressed all the same is not read: 13 KB can be made to mean
8 GiB, and httpx decodes each piece as a whole.
"""

from collections.abc import AsyncIterator
from http.cookiejar import CookieJar
from typing import Any

import httpx

PLAIN = "identity"
"""What is asked for as `Accept-Encoding`."""


def is_compressed(answer: httpx.Response) -> bool:
    return answer.headers.get("content-encoding", PLAIN).strip().lower() not in {"", PLAIN}


async def chunks_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes in, or as it was read already. Raises `httpx.HTTPError`, also where it is compressed."""
    if answer.is_stream_consumed:
        yield answer.content
        return
    if is_compressed(answer):
        raise httpx.DecodingError("the answer is compressed, which nobody has asked for")
    async for chunk in answer.aiter_raw():
        yield chunk


async def bound(answer: httpx.Response, limit_bytes: int) -> None:
    """Before httpx reads a body as a whole: one that is too large raises `httpx.DecodingError` then, and a compressed
    one is dropped."""
    stream = answer.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        return
    if is_compressed(answer):
        await stream.aclose()
        answer.stream = httpx.ByteStream(b"")
    else:
        answer.stream = _Bounded(stream, limit_bytes)


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, limit_bytes: int) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = self._limit_bytes
        async for chunk in self._stream:
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
