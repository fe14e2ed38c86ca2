"""Fixed parts of statements. SQLite uses a partial index only if a statement contains its condition word for word."""

from collections.abc import Iterable

from fsm_runner.protocol.statuses import BUSY_RUN_STATUSES, ENDED_SESSION_STATUSES, HELD_RUN_STATUSES

BEYOND = 2**63 - 1
"""Greater than each number of a row."""


def _listed(statuses: Iterable[str]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)


HELD = f"status IN ({_listed(HELD_RUN_STATUSES)})"
"""A runner has the run."""
OPEN = f"status IN ({_listed(('pending', *HELD_RUN_STATUSES))})"
"""The condition of the index `runs_open`."""
BUSY = f"status IN ({_listed(sorted(BUSY_RUN_STATUSES))})"
"""The run has an executor."""
READY = "status = 'pending' AND waits_until_s IS NULL"
"""The condition of the index `runs_ready`."""
SESSION_ENDED = f"status IN ({_listed(ENDED_SESSION_STATUSES)})"
"""The condition of the index `sessions_ended`."""
