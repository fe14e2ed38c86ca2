"""All time limits of the coordinator (protocol.md, section 1.1)."""

import msgspec


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. The defaults are those of a deployed coordinator, except `gone_after_s`, which only this one has."""

    poll_timeout_s: float = 30
    """How long a poll is held. The registration response announces it to the runner."""
    heartbeat_interval_s: float = 60
    """The interval between a runner's heartbeats. The registration response announces it to the runner."""
    stale_after_s: float = 120
    """Without a heartbeat for this long, a runner is stale: another process may register under its identity."""
    gone_after_s: float = 20
    """After a poll's connection ended, without another poll or heartbeat for this long, another process may register
    under the runner's identity although it is not stale. A runner with a broken connection polls again sooner."""
    removed_after_s: float = 600
    """Without a heartbeat for this long, or without a registration after a restart of the coordinator, a runner is
    removed, and its open runs fail."""
    sweep_interval_s: float = 30
    """The interval between checks for silent runners. Many requests check too."""
    tick_interval_s: float = 1
    """The interval between checks of the queue for runs whose time to start, or to expire, has come."""
    retention_interval_s: float = 60
    """The interval between searches for sessions that are kept no longer. The first one is at the start."""
    confirmation_s: float = 5
    """How long a decision about an approval waits for the confirmation of its runner."""
    redelivery_s: float = 5
    """The interval after which a decision that is not confirmed is handed to its runner again."""
    keep_alive_s: float = 15
    """The interval between comments on an idle event stream."""
