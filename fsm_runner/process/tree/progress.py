"""Tells processes that take long to end from processes that never will."""

import time
from collections.abc import Hashable

LONGEST_GAP_S = 1.0
"""At most this much of the time between two checks counts as time without a change. This process may have been stopped
in between, and then the processes had no time to end either."""
NAMED = 20
"""At most this many processes are named in a message."""


class Progress:
    """Whether killing processes still changes anything. As long as processes start or end, there is no time limit."""

    def __init__(self) -> None:
        self._remaining: frozenset[Hashable] = frozenset()
        self._looked_at = time.monotonic()
        self._unchanged_s = 0.0

    def is_stuck(self, remaining: frozenset[Hashable], limit_s: float) -> bool:
        """Whether the same processes have remained for `limit_s`.

        Call it after each check of what remains, before those processes are killed again.
        """
        now = time.monotonic()
        if remaining == self._remaining:
            self._unchanged_s += min(now - self._looked_at, LONGEST_GAP_S)
        else:
            self._unchanged_s = 0.0
        self._remaining, self._looked_at = remaining, now
        return self._unchanged_s > limit_s


def named(processes: list[str]) -> str:
    """The first `NAMED` of them, and how many there are besides."""
    more = f" and {len(processes) - NAMED:,} more" if len(processes) > NAMED else ""
    return ", ".join(processes[:NAMED]) + more
