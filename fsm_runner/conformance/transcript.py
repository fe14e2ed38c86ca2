"""What happened between the suite and one process, with times, kept within bounds."""

from collections.abc import Callable

from fsm_runner.util.text import escaped, without_middle

SHOWN_CHARS = 600
"""Of one entry; its beginning and its end."""
ENTRIES_LIMIT = 200
KIND_WIDTH = 8


class Transcript:
    """`seconds` gives the time since the process was started."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._entries: list[str] = []
        self._left_out = 0

    def add(self, kind: str, text: str) -> None:
        if len(self._entries) >= ENTRIES_LIMIT:
            self._left_out += 1
            return
        time, *continued = f"{self._seconds():8.3f} s  {kind:<{KIND_WIDTH}}", " " * (12 + KIND_WIDTH)
        first, *more = escaped(without_middle(text, SHOWN_CHARS)).splitlines() or [""]
        self._entries += [f"{time}{first}".rstrip(), *(f"{continued[0]}{line}" for line in more)]

    @property
    def lines(self) -> list[str]:
        left_out = [f"… {self._left_out:,} entries left out …"] if self._left_out else []
        return self._entries + left_out
