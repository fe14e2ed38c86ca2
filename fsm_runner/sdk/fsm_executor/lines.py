"""Splits a stream of bytes into lines."""

from __future__ import annotations

from collections.abc import Callable

from fsm_executor.errors import ProtocolError

LINE_LIMIT_BYTES = 64 * 1024 * 1024
"""The size limit of a line, and of an invocation that spans several lines."""

_CHUNK_BYTES = 64 * 1024


class LineReader:
    """`read(size)` blocks until there is input, and returns at most `size` bytes, or none at the end."""

    def __init__(self, read: Callable[[int], bytes], limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._read = read
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._at_end = False

    def line(self) -> bytes | None:
        """Return the next line without its newline, or None at the end. The last line needs no newline.

        Raises `ProtocolError` if the line is longer than the limit. The reader is unusable afterwards.
        """
        searched_bytes = 0
        while (end := self._buffer.find(b"\n", searched_bytes)) < 0:
            searched_bytes = len(self._buffer)
            self._check_limit(searched_bytes)
            if not self._fill():
                return self._take(searched_bytes) if searched_bytes else None
        self._check_limit(end)
        line = self._take(end)
        del self._buffer[:1]
        return line

    def rest(self) -> bytes:
        """Return the remaining input. Raises `ProtocolError` if it is longer than the limit."""
        while self._fill():
            self._check_limit(len(self._buffer))
        return self._take(len(self._buffer))

    def _fill(self) -> bool:
        chunk = b"" if self._at_end else self._read(_CHUNK_BYTES)
        self._at_end = not chunk
        self._buffer += chunk
        return not self._at_end

    def _take(self, size_bytes: int) -> bytes:
        taken = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        return taken

    def _check_limit(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise ProtocolError(f"standard input has a line of more than {self._limit_bytes:,} bytes")
