"""Time-outs, limits and retry policies of calls to the coordinator.

Other numbers about the coordinator are in the specs. `specs/run.toml` has the limits of a run's report and of the
look-up of an interrupted run (states `reporting` and `recovering`). `specs/runner.toml` has the limits of a
registration, of the last reports and of the deregistration. `runtime/actors/runner.py` has those of their details.

`docs/operations.md` has a table of `Policies`; a test compares the two.
"""

import msgspec

from fsm_runner.util.retry import RetryPolicy

CONNECT_TIMEOUT_S = 10.0
RESPONSE_TIMEOUT_S = 60.0
"""Long, because the coordinator may carry out a call after the client has given it up."""
CONTROL_TIMEOUT_S = 10.0
"""For heartbeats and look-ups: they can be repeated without effect, and other calls wait for them."""

RESPONSE_LIMIT_BYTES = 64 * 1024 * 1024
"""The largest response, a script's archive included."""
UNAUTHORIZED_LIMIT_BYTES = 64 * 1024
"""The largest 401 that is read for its reason."""

KEEPALIVE_S = 3.0
"""How long an idle connection is reused: shorter than servers keep one, so that none is closed under a request."""
REPORT_CONNECTIONS = 20
"""The most reports in flight; others wait."""
EXECUTOR_CONNECTIONS = 500
"""The most calls of executors and MCP clients in flight. They have connections of their own, so that none of them
delays a report, and many, because a stream of events keeps its connection while it is read."""

POLL_MARGIN_S = 15.0
"""Added to the time for which the coordinator holds a poll: a poll that is given up early can lose a run."""
POLL_HOLD_LIMIT_S = 3600.0
"""The longest poll, whatever the coordinator asks for."""
POLL_NAMES_LIMIT = 10_000
"""The most sessions to stop, or scripts, in one poll response. A response with more is invalid."""
SHORT_POLL_S = 0.5
"""The coordinator did not hold a poll that ends within this time without a run. The next poll waits a little."""
RUN_LOOKUP_INTERVAL_S = 1.0
"""The shortest interval between look-ups of the coordinator's runs, while no poll is held (the runner is full or
draining) or a response may have been lost."""
HEARTBEAT_MIN_S = 0.1
"""The shortest heartbeat interval, whatever the coordinator asks for."""

STALE_AFTER_S = 120.0
"""Without a heartbeat for this long, a runner is stale until it registers again (section 1.1)."""
REMOVED_AFTER_S = 600.0
"""Without a heartbeat for this long, a runner and its agents are removed (section 1.1)."""
STALE_CHECK_INTERVAL_S = 30.0
"""The interval at which a deployed coordinator looks for stale runners (section 1.1)."""
REGISTRATION_LOG_INTERVAL_S = 30.0
"""The interval at which the log repeats that the registration fails, or that another runner blocks it."""

TOKEN_MARGIN_S = 60.0
"""A token is renewed this long before it expires,"""
TOKEN_MARGIN_SHARE = 0.25
"""or when this share of its lifetime remains, if that is shorter."""
TOKEN_LIFETIME_LIMIT_S = 7 * 24 * 3600.0
"""The longest use of a token, whatever the token service says."""
TOKEN_REPLACE_INTERVAL_S = 10.0
"""The shortest interval between replacements of tokens that the coordinator rejects. It may reject all of them."""
TOKEN_RESPONSE_LIMIT_BYTES = 64 * 1024
"""The largest response of the token service. A token has to fit into a header."""

EXECUTOR_MESSAGE_LIMIT_S = 300.0
"""An executor's message is given up if it fails for this long while the coordinator answers other calls, because it
delays all later messages of its session, the run's report included. The limit of a report is in `specs/run.toml`."""
SESSION_BACKLOG_LIMIT_BYTES = 64 * 1024 * 1024
"""The most undelivered data of one session. Further messages of its executor are rejected."""


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """The retry policy of each kind of call."""

    register: RetryPolicy = RetryPolicy(base_s=0.5, cap_s=30)
    registration_conflict: RetryPolicy = RetryPolicy(base_s=1, cap_s=3, limit_s=780)
    """A killed runner is removed after `REMOVED_AFTER_S` and a check interval; the rest is margin. The cap is short
    so that a restarted runner registers soon after the coordinator would accept it."""
    poll: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=15)
    short_poll: RetryPolicy = RetryPolicy(base_s=0.05, cap_s=1)
    """Between polls that the coordinator did not hold and that brought no run."""
    heartbeat: RetryPolicy = RetryPolicy(base_s=1, cap_s=15)
    delivery: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=30)
    """For reports, binds and events. A report's limit is that of the state `reporting` in `specs/run.toml`."""
    repeated_report: RetryPolicy = RetryPolicy(base_s=2, cap_s=600)
    """Between reports of a run that ended here and that the coordinator still shows as open."""
    script: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=5, limit_s=60)
    look_up: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=5, limit_s=60)
    """For the run's status in `submit --wait`."""
    token: RetryPolicy = RetryPolicy(base_s=0.5, cap_s=30)
    """Between requests to the token service after a failure."""
    deregister: RetryPolicy = RetryPolicy(base_s=0.1, cap_s=1, limit_s=3)


POLICIES = Policies()
