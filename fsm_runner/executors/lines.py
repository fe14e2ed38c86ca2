"""Lines out of a stream that comes in pieces of any size."""

from collections.abc import Iterator

import msgspec

LINE_LIMIT_BYTES = 4 * 1024 * 1024
"""As much of one line is kept; the rest of it is passed over."""


class Line(msgspec.Struct, frozen=True):
    """One line without its line break."""

    content: bytes
    cut: bool
    """Whether it was longer than the limit, and `content` is its beginning."""


class LineSplitter:
    """Holds at most `limit_bytes` of a line that has not ended yet. A line that never ends is no line."""

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._begun = bytearray()
        self._cut = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this piece."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk, start, end)
            yield Line(bytes(self._begun), self._cut)
            self._begun.clear()
            self._cut = False
            start = end + 1
        self._keep(chunk, start, len(chunk))

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        kept_end = min(end, start + self._limit_bytes - len(self._begun))
        self._begun += chunk[start:kept_end]
        self._cut = self._cut or kept_end < end
