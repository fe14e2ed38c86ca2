"""Server-sent events, taken apart as they come."""

LINE_LIMIT_BYTES = 64 * 1024
"""So much of a line is kept. What is longer is cut: it was data, and only the kinds of events matter here."""

_DEFAULT_KIND = "message"


class EventParser:
    """Tells which events have come to their end. Any division of the bytes into chunks gives the same."""

    def __init__(self, line_limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._line_limit_bytes = line_limit_bytes
        self._line = bytearray()
        self._after_cr = False
        self._kind = _DEFAULT_KIND
        self._has_data = False

    @property
    def kept_bytes(self) -> int:
        return len(self._line)

    def feed(self, chunk: bytes) -> list[str]:
        """The kinds (`event:`) of the events that end in this chunk. Comments, such as keep-alives, are none."""
        if self._after_cr and chunk:
            # A line may end with CR, LF or both; here the two came in different chunks.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        *ended, begun = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        kinds = []
        for part in ended:
            self._keep(part)
            line, self._line = bytes(self._line), bytearray()
            if (kind := self._taken(line)) is not None:
                kinds.append(kind)
        self._keep(begun)
        return kinds

    def _keep(self, part: bytes) -> None:
        self._line += part[: self._line_limit_bytes - len(self._line)]

    def _taken(self, line: bytes) -> str | None:
        """The kind of the event that this line ends."""
        if not line:
            kind = self._kind if self._has_data else None
            self._kind, self._has_data = _DEFAULT_KIND, False
            return kind
        field, _, value = line.partition(b":")
        if field == b"event":
            self._kind = value.removeprefix(b" ").decode(errors="replace") or _DEFAULT_KIND
        elif field == b"data":
            self._has_data = True
        return None
