"""How long a journal waits, and how much it keeps."""

import msgspec

FLUSH_WITHIN_S = 0.05
"""A record for which nobody waits is on disk this long after it was noted; and what the disk needs."""
RETRY_EACH_S = 1.0
"""How often a journal that cannot be written is tried again."""
SLOW_DISK_S = 5.0
"""After so long without an answer a disk counts as one that cannot be written."""
CLOSE_WITHIN_S = 2.0
"""How long closing waits for a disk that does not take the rest."""
BUSY_WITHIN_S = 1.0
"""How long somebody else's lock on the file is waited for."""
ENDED_RECOVERED = 1_000
"""So many ended runs are known again after a restart, so that one handed out twice is not executed twice."""
PROCESSES_KNOWN = 100
"""So many earlier processes of the runner are known: each start ends what all of them have left, or is none."""

RECOVERED_CONTENT_BYTES = 128 * 1024
"""The longest message that is read when the journal is opened. The end of a run is never longer."""

PRUNE_EACH_S = 60.0
"""Between two times that old records are looked for."""
PRUNED_SUBJECTS = 50
"""So many runs, sessions and runner transitions go at a time: a flush may have to wait for that."""
VACUUMED_PAGES = 64
"""So many pages are given back to the disk at a time."""
WAL_KEPT_BYTES = 4 * 1024 * 1024
"""To this size the write-ahead file is cut back after it has grown."""


class RetentionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept of what has ended. What is open, and messages that are not gone, are kept in any case."""

    age_s: float = 30 * 24 * 3600.0
    """Since the end of a run or a session; of the runner's transitions, since each was noted."""
    size_bytes: int = 256 * 1024 * 1024
    """Above it the oldest go first."""


RETENTION = RetentionLimits()
