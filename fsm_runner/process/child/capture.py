"""Keeps a stream of any length in memory of a fixed size."""

import codecs
import re

_REST_OF_CHARACTER = re.compile(rb"\A[\x80-\xbf]{1,3}")
"""A character of UTF-8 that was cut in two: its continuation bytes."""


class BoundedCapture:
    """Keeps the beginning and the end of a stream: half of `limit_bytes` each, and all of it while it fits.

    The end is a ring buffer: bytes after the limit overwrite the oldest ones.
    """

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ValueError(f"limit_bytes must not be negative, got {limit_bytes}")
        self._tail_limit_bytes = limit_bytes // 2
        self._head_limit_bytes = limit_bytes - self._tail_limit_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._oldest = 0
        self.total_bytes = 0
        """The number of bytes of the stream so far, including those that were left out."""

    def add(self, chunk: bytes) -> None:
        self.total_bytes += len(chunk)
        room = self._head_limit_bytes - len(self._head)
        if room >= len(chunk):
            self._head += chunk
            return
        with memoryview(chunk) as view:
            self._head += view[:room]
            self._add_to_tail(view[room:])

    def _add_to_tail(self, chunk: memoryview) -> None:
        limit = self._tail_limit_bytes
        if len(chunk) >= limit:
            self._tail[:] = chunk[len(chunk) - limit :]
            self._oldest = 0
            return
        room = limit - len(self._tail)
        self._tail += chunk[:room]
        chunk = chunk[room:]
        until_end = chunk[: limit - self._oldest]
        from_start = chunk[len(until_end) :]
        # Assigning to a slice of the bytearray would copy the chunk first.
        with memoryview(self._tail) as ring:
            ring[self._oldest : self._oldest + len(until_end)] = until_end
            ring[: len(from_start)] = from_start
        self._oldest = (self._oldest + len(chunk)) % limit

    @property
    def truncated(self) -> bool:
        """True if bytes were left out between the beginning and the end."""
        return self.total_bytes > len(self._head) + len(self._tail)

    def text(self) -> str:
        """The kept bytes as text, with a line that says how many bytes were left out.

        Bytes that are not UTF-8 become U+FFFD. A character that was cut in two is left out.
        """
        if not self.truncated:
            return self.bytes().decode(errors="replace")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        head = decoder.decode(self._head)
        cut_from_head, _ = decoder.getstate()
        tail = _REST_OF_CHARACTER.sub(b"", self._tail_bytes())
        left_out = self.total_bytes - (len(self._head) - len(cut_from_head)) - len(tail)
        line_break = "\n" if head and not head.endswith("\n") else ""
        return f"{head}{line_break}… {left_out:,} bytes left out …\n{tail.decode(errors='replace')}"

    def _tail_bytes(self) -> bytes:
        with memoryview(self._tail) as tail:
            return b"".join((tail[self._oldest :], tail[: self._oldest]))

    def bytes(self) -> bytes:
        """The whole stream, or its beginning and its end without a mark between them."""
        return b"".join((self._head, self._tail_bytes()))
