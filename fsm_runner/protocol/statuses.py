"""The statuses of runs and sessions, and other fixed words of the protocol (protocol.md, sections 1.1, 1.2 and 2)."""

from typing import Literal

RunStatus = Literal["pending", "claimed", "running", "stopping", "completed", "failed", "stopped"]
TERMINAL_RUN_STATUSES = frozenset({"completed", "failed", "stopped"})
UNSTARTED_RUN_STATUSES = frozenset({"pending", "claimed"})
STOPPABLE_RUN_STATUSES = frozenset({"pending", "claimed", "running"})
"""The statuses of a run that accepts a stop request."""
HELD_RUN_STATUSES = ("claimed", "running", "stopping")
"""The statuses of a run that a runner holds."""
OPEN_RUN_STATUSES = frozenset({"pending", *HELD_RUN_STATUSES})
BUSY_RUN_STATUSES = OPEN_RUN_STATUSES - UNSTARTED_RUN_STATUSES

CompletedSession = Literal["finished", "idle"]
"""The session's status after a completed run; `idle`: the executor waits for its next turn."""
COMPLETED_SESSION_STATUSES = frozenset({"finished", "idle"})
EndedSession = Literal["finished", "failed", "stopped"]
ENDED_SESSION_STATUSES = ("finished", "failed", "stopped")
LIVE_SESSION_STATUSES = frozenset({"running", "idle"})
"""The statuses of a session whose executor may be alive."""

StopSignal = Literal["shutdown", "SIGTERM", "SIGKILL"]
"""How an executor ended; `shutdown` if no signal was needed."""
STOP_SIGNALS: tuple[StopSignal, ...] = ("shutdown", "SIGTERM", "SIGKILL")
"""From the mildest to the strongest."""

Lifecycle = Literal["one_shot", "persistent"]
"""`one_shot`: a process for each run. `persistent`: a process for each session."""
LIFECYCLES: tuple[Lifecycle, ...] = ("one_shot", "persistent")
DEFAULT_LIFECYCLE: Lifecycle = "one_shot"

TRANSIENT_HTTP_STATUSES = frozenset({408, 425, 429})
"""The client errors after which the same request may succeed."""
