"""The time limits of a coordinator, in one place (protocol.md, section 1.1)."""

import msgspec


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. The defaults are those of a deployed coordinator."""

    poll_timeout_s: float = 30
    """How long a poll is held; told to the runner when it registers."""
    heartbeat_interval_s: float = 60
    """How often a runner should send a heartbeat; told to it when it registers."""
    stale_after_s: float = 120
    """Without a heartbeat for this long, a runner is stale: another process may take its identity."""
    gone_after_s: float = 20
    """When the connection of its poll has ended and it neither polls nor sends a heartbeat for this long, another
    process may take its identity, before it counts as stale. A runner whose connection broke polls again sooner."""
    removed_after_s: float = 600
    """Without a heartbeat for this long, a runner is removed and its open runs have failed."""
    sweep_interval_s: float = 30
    """How often runners are looked at when no request does it."""
    keep_alive_s: float = 15
    """How often an idle event stream carries a comment."""
