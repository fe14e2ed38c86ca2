"""Splits a stream that arrives in chunks of any size into lines."""

from collections.abc import Iterator

import msgspec

LINE_LIMIT_BYTES = 4 * 1024 * 1024
LINE_END_BYTES = 256


class Line(msgspec.Struct, frozen=True):
    """One line without its line break."""

    content: bytes
    cut: bool = False
    """True if it was longer than the limit; then `content` is its beginning."""
    end: bytes = b""
    """The last `LINE_END_BYTES` of a line that was cut."""


class LineSplitter:
    """Yields the lines that contain `marker`, and those that were too long to be kept. Skips all others.

    Buffers at most `limit_bytes` of a line that has not ended yet.
    """

    def __init__(self, marker: bytes, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._marker = marker
        self._limit_bytes = limit_bytes
        self._partial = bytearray()
        self._cut, self._end = False, b""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this chunk."""
        first_end, last_end = chunk.find(b"\n"), chunk.rfind(b"\n")
        if first_end >= 0:
            self._keep(chunk, 0, first_end)
            yield from self.rest()
            yield from self._whole_lines(chunk, first_end + 1, last_end)
        self._keep(chunk, last_end + 1, len(chunk))

    def rest(self) -> Iterator[Line]:
        """Yield the last line if the stream ends without a line break."""
        line = Line(bytes(self._partial), self._cut, self._end)
        self._partial.clear()
        self._cut, self._end = False, b""
        if line.cut or self._marker in line.content:
            yield line

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        kept_end = min(end, start + self._limit_bytes - len(self._partial))
        self._partial += chunk[start:kept_end]
        if kept_end < end:
            self._cut = True
        if self._cut:
            self._end = (self._end + chunk[max(kept_end, end - LINE_END_BYTES) : end])[-LINE_END_BYTES:]

    def _whole_lines(self, chunk: bytes, start: int, end: int) -> Iterator[Line]:
        """Yield lines of one chunk, without a loop over all lines: an executor may write millions of other lines."""
        while (found := chunk.find(self._marker, start, end)) >= 0:
            line_start = chunk.rfind(b"\n", start, found) + 1 or start
            start = chunk.index(b"\n", found) + 1
            yield Line(chunk[line_start : start - 1])
