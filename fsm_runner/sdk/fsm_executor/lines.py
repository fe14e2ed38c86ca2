"""Lines out of a stream of bytes."""

from __future__ import annotations

from collections.abc import Callable

from fsm_executor.errors import ProtocolError

LINE_LIMIT_BYTES = 64 * 1024 * 1024
"""For one line, and for an invocation that is spread over several."""

_CHUNK_BYTES = 64 * 1024


class LineReader:
    """`read` gives at most so many bytes, as soon as there are some, and none at the end."""

    def __init__(self, read: Callable[[int], bytes], limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._read = read
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._at_end = False

    def line(self) -> bytes | None:
        """The next line without its newline, also the last one where it has none; None at the end.

        Raises `ProtocolError` where it is longer than the limit, and then the stream is of no more use.
        """
        looked_at_bytes = 0
        while (end := self._buffer.find(b"\n", looked_at_bytes)) < 0:
            looked_at_bytes = len(self._buffer)
            self._check(looked_at_bytes)
            if not self._fill():
                return self._take(looked_at_bytes) if looked_at_bytes else None
        self._check(end)
        line = self._take(end)
        del self._buffer[:1]
        return line

    def rest(self) -> bytes:
        """All that follows. Raises `ProtocolError` as `line` does."""
        while self._fill():
            self._check(len(self._buffer))
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

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise ProtocolError(f"standard input has a line of more than {self._limit_bytes:,} bytes")
