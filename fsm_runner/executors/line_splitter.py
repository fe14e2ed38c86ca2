"""Lines out of a stream that comes in pieces of any size."""

from collections.abc import Iterator

import msgspec

LINE_END_BYTES = 256
"""As much is known of the end of a line that was cut."""

LINE_LIMIT_BYTES = 4 * 1024 * 1024
"""As much of one line is kept; the rest of it is passed over."""


class Line(msgspec.Struct, frozen=True):
    """One line without its line break."""

    content: bytes
    cut: bool = False
    """Whether it was longer than the limit, and `content` is its beginning."""
    end: bytes = b""
    """The last bytes of a line that was cut."""


class LineSplitter:
    """Gives the lines that hold `marker`, and those that were too long to be kept. All others are passed over.

    Holds at most `limit_bytes` of a line that has not ended yet.
    """

    def __init__(self, marker: bytes, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._marker = marker
        self._limit_bytes = limit_bytes
        self._begun = bytearray()
        self._cut = False
        self._end = b""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this piece."""
        first_end, last_end = chunk.find(b"\n"), chunk.rfind(b"\n")
        if first_end >= 0:
            self._keep(chunk, 0, first_end)
            yield from self.rest()
            yield from self._whole_lines(chunk, first_end + 1, last_end)
        self._keep(chunk, last_end + 1, len(chunk))

    def rest(self) -> Iterator[Line]:
        """What has begun and not ended, as a line: a stream may end without a line break."""
        line = Line(bytes(self._begun), self._cut, self._end)
        self._begun.clear()
        self._cut = False
        self._end = b""
        if line.cut or self._marker in line.content:
            yield line

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        kept_end = min(end, start + self._limit_bytes - len(self._begun))
        self._begun += chunk[start:kept_end]
        if kept_end < end:
            self._cut = True
        if self._cut:
            self._end = (self._end + chunk[max(kept_end, end - LINE_END_BYTES) : end])[-LINE_END_BYTES:]

    def _whole_lines(self, chunk: bytes, start: int, end: int) -> Iterator[Line]:
        """Those between two line breaks of one piece: an executor may write millions that nobody wants."""
        while (found := chunk.find(self._marker, start, end)) >= 0:
            line_start = chunk.rfind(b"\n", start, found) + 1 or start
            start = chunk.index(b"\n", found) + 1
            yield Line(chunk[line_start : start - 1])
