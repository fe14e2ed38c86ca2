"""The journal's times, and how much it retains."""

import msgspec

FLUSH_WITHIN_S = 0.05
"""A record that no call of `flush` waits for is written this long after it was queued."""
RETRY_INTERVAL_S = 1.0
"""The interval between attempts to write a journal that cannot be written."""
SLOW_DISK_S = 5.0
"""A disk that does not answer for this long counts as one that cannot be written."""
CLOSE_WITHIN_S = 2.0
"""The longest time that closing waits for the last write."""
BUSY_WITHIN_S = 1.0
"""The longest time that SQLite waits for another process's lock on the file."""
ENDED_RECOVERED = 1_000
"""The ended runs that are known after a restart, so that one that is handed out twice is not executed twice."""
PROCESSES_KNOWN = 100
"""The earlier processes of a runner that the journal names. Each start kills the processes that they left."""

RECOVERED_CONTENT_BYTES = 128 * 1024
"""The longest message that is read when the journal is opened. A terminal report is never longer."""

PRUNE_INTERVAL_S = 60.0
"""The interval between searches for old records."""
PRUNED_SUBJECTS = 50
"""The runs, sessions and runner transitions that are deleted at a time: a flush may have to wait for it."""
VACUUMED_PAGES = 64
"""The pages that are returned to the disk at a time."""
WAL_LIMIT_BYTES = 4 * 1024 * 1024
"""The size to which the write-ahead file is truncated after it has grown."""


class RetentionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is retained of ended runs and sessions. Open ones and stored messages are never deleted."""

    age_s: float = 30 * 24 * 3600.0
    """Since the end of a run or session; for the runner's transitions, since each of them."""
    size_bytes: int = 256 * 1024 * 1024
    """Above it, the oldest records are deleted first."""


RETENTION = RetentionLimits()
