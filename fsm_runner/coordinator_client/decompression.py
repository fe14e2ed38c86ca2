"""Compressed bodies, unpacked piece by piece: 64 KiB of gzip can stand for 64 MiB, and no piece is larger than 64 KiB.

The product asks for answers that are not compressed. Some reverse proxies compress them nevertheless.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

PLAIN = "identity"
"""What the product asks for as `Accept-Encoding`."""

PIECE_BYTES = 64 * 1024
_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 31, 15, -15
_GZIP = frozenset({"gzip", "x-gzip"})
READABLE = _GZIP | {"deflate"}


def encoding_of(answer: httpx.Response) -> str:
    """The content encoding of the body, in lower case; `identity` if it is not compressed."""
    named: str = answer.headers.get("content-encoding", "")
    return named.strip().lower() or PLAIN


async def unpacked(packed: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The unpacked body. Raises `httpx.DecodingError` if it is broken, or if the encoding cannot be read."""
    if encoding not in READABLE:
        raise httpx.DecodingError(
            f"the answer is compressed as {encoding[:40]!r}, which was not asked for; of compressed answers, gzip and "
            "deflate can be read: turn compression off in the proxy in front of the server"
        )
    unpacker = _Unpacker(is_gzip=encoding in _GZIP)
    try:
        async for chunk in packed:
            for piece in unpacker.pieces(chunk):
                yield piece
                # One chunk can stand for a thousand pieces: other tasks have their turns between them.
                await asyncio.sleep(0)
        unpacker.check_end()
    except zlib.error as defect:
        raise httpx.DecodingError(
            f"the answer is not valid {encoding}, which its Content-Encoding names: {defect}"
        ) from defect


class _Unpacker:
    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._begun = b""
        """The first byte of a deflate body, until the second one shows which of its two forms it has."""
        self._member = zlib.decompressobj(_GZIP_WINDOW) if is_gzip else None
        self._has_input = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Raises `zlib.error`."""
        if self._member is None:
            self._begun += chunk
            if len(self._begun) < 2:
                return
            self._member, chunk = zlib.decompressobj(_deflate_window(self._begun)), self._begun
        while chunk:
            if self._member.eof:
                if not self._is_gzip:
                    return
                # Several gzip files in a row are one; some servers fill up with zeros.
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    return
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            self._has_input = True
            piece = self._member.decompress(chunk, PIECE_BYTES)
            if piece:
                yield piece
            chunk = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        # zlib keeps what did not fit into the last piece.
        while not self._member.eof and (piece := self._member.decompress(b"", PIECE_BYTES)):
            yield piece

    def check_end(self) -> None:
        """Raises `zlib.error` if the body is incomplete."""
        is_complete = not self._begun if self._member is None else self._member.eof or not self._has_input
        if not is_complete:
            raise zlib.error("it is incomplete")


def _deflate_window(begun: bytes) -> int:
    """RFC 9110 means zlib's format (RFC 1950); some servers send deflate without its frame."""
    has_frame = begun[0] & 0x0F == 8 and int.from_bytes(begun[:2], "big") % 31 == 0
    return _ZLIB_WINDOW if has_frame else _RAW_WINDOW
