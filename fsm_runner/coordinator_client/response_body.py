"""Response bodies, read and decompressed in pieces so that a limit on their size applies before they are in memory.

64 KiB of gzip can stand for 64 MiB. The client asks for uncompressed responses, but some reverse proxies compress them.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar
from typing import Any

import httpx

PLAIN = "identity"
"""The `Accept-Encoding` of every request."""
READ_ERRORS = (httpx.HTTPError, ssl.SSLError)
"""What reading from a server raises. httpx translates the TLS errors of a handshake, but not later ones, such as the
alert of a server that demands a client certificate."""

PIECE_BYTES = 64 * 1024
_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 31, 15, -15
_GZIP = frozenset({"gzip", "x-gzip"})
SUPPORTED_ENCODINGS = _GZIP | {"deflate"}


async def chunks_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the decompressed body. Raises one of `READ_ERRORS`."""
    if response.is_stream_consumed:
        yield response.content
        return
    async for chunk in decompressed(response.aiter_raw(), encoding_of(response)):
        yield chunk


async def limit_body(response: httpx.Response, limit_bytes: int) -> None:
    """Make reading the body raise `httpx.DecodingError` if it is broken or too large. Drop unsupported encodings."""
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        return
    encoding = encoding_of(response)
    if encoding != PLAIN and encoding not in SUPPORTED_ENCODINGS:
        await stream.aclose()
        response.stream = httpx.ByteStream(b"")
        return
    response.stream = _LimitedStream(stream, limit_bytes, encoding)
    # httpx would decompress the body a second time.
    response.headers.pop("content-encoding", None)


class _LimitedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, limit_bytes: int, encoding: str) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._encoding = encoding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = self._limit_bytes
        async for chunk in decompressed(aiter(self._stream), self._encoding):
            left_bytes -= len(chunk)
            if left_bytes < 0:
                raise httpx.DecodingError(f"the response is larger than {self._limit_bytes:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class NoCookies(CookieJar):
    """A cookie jar that stores nothing. The protocol has no cookies."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass


def encoding_of(response: httpx.Response) -> str:
    return str(response.headers.get("content-encoding", "")).strip().lower() or PLAIN


async def decompressed(raw: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Raises `httpx.DecodingError` if the body is broken or its encoding is not supported."""
    if encoding == PLAIN:
        async for chunk in raw:
            yield chunk
        return
    if encoding not in SUPPORTED_ENCODINGS:
        raise httpx.DecodingError(
            f"the response is compressed as {encoding[:40]!r}; gzip and deflate are supported: turn off compression in "
            "the proxy in front of the server"
        )
    try:
        async for piece in _pieces(raw, is_gzip=encoding in _GZIP):
            yield piece
            # One chunk can become a thousand pieces. Let other tasks run between them.
            await asyncio.sleep(0)
    except zlib.error as error:
        raise httpx.DecodingError(f"the response is not valid {encoding} (its Content-Encoding): {error}") from error


async def _pieces(raw: AsyncIterator[bytes], *, is_gzip: bool) -> AsyncIterator[bytes]:
    """Raises `zlib.error`, also for an incomplete body."""
    member = zlib.decompressobj(_GZIP_WINDOW) if is_gzip else None
    start = b""  # the first byte of a deflate body, until the second one shows which of two formats it has
    is_empty = True
    async for chunk in raw:
        is_empty = is_empty and not chunk
        if member is None:
            start += chunk
            if len(start) < 2:
                continue
            member, chunk = zlib.decompressobj(_deflate_window(start)), start
        while chunk:
            if member.eof:
                # A gzip body may have several members. Some servers pad the last one with zeros.
                chunk = chunk.lstrip(b"\0") if is_gzip else b""
                if not chunk:
                    break
                member = zlib.decompressobj(_GZIP_WINDOW)
            if piece := member.decompress(chunk, PIECE_BYTES):
                yield piece
            chunk = member.unused_data if member.eof else member.unconsumed_tail
        # zlib retains output that did not fit into the last piece.
        while not member.eof and (piece := member.decompress(b"", PIECE_BYTES)):
            yield piece
    if not is_empty and (member is None or not member.eof):
        raise zlib.error("it is incomplete")


def _deflate_window(start: bytes) -> int:
    """`deflate` means the zlib format (RFC 1950, per RFC 9110). Some servers send raw deflate data."""
    has_zlib_header = start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return _ZLIB_WINDOW if has_zlib_header else _RAW_WINDOW
