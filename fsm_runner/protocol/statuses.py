"""Statuses of runs and sessions, and how an executor ended (protocol.md, sections 1.1 and 1.2)."""

from typing import Literal

RunStatus = Literal["pending", "claimed", "running", "stopping", "completed", "failed", "stopped"]
TERMINAL_RUN_STATUSES = frozenset({"completed", "failed", "stopped"})
UNSTARTED_RUN_STATUSES = frozenset({"pending", "claimed"})
HELD_RUN_STATUSES = ("claimed", "running", "stopping")
"""The statuses of a run that a runner holds."""
OPEN_RUN_STATUSES = frozenset({"pending", *HELD_RUN_STATUSES})

CompletedSession = Literal["finished", "idle"]
"""The session's status after a completed run; `idle`: the executor waits for its next turn."""
EndedSession = Literal["finished", "failed", "stopped"]

StopSignal = Literal["shutdown", "SIGTERM", "SIGKILL"]
"""How an executor ended; `shutdown` if no signal was needed."""
