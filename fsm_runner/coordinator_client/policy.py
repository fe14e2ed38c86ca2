"""How long and how often the coordinator is tried: all numbers of the client in one place.

`docs/operations.md` shows this table; a test compares the two.
"""

import msgspec

from fsm_runner.util.retry import RetryPolicy

CONNECT_TIMEOUT_S = 10.0
"""How long a connection may take to come about."""

KEEPALIVE_S = 3.0
"""How long an idle connection is used again: shorter than servers keep one, so that none is closed under a request."""

RESPONSE_TIMEOUT_S = 60.0
"""How long an answer may take. Long, since a call that was given up may still be carried out later."""

REPORT_CONNECTIONS = 20
"""So many reports are under way at once, the others wait."""

EXECUTOR_CONNECTIONS = 500
"""Apart from these, so many calls of executors and MCP clients: none of them may keep a report waiting. Many, since a
stream of events keeps its connection as long as it is read."""

CONTROL_TIMEOUT_S = 10.0
"""How long a heartbeat or a look-up may take: they change nothing when they are repeated, and more wait behind them."""

POLL_MARGIN_S = 15.0
"""What is added to the time for which the coordinator holds a poll: giving one up early can lose a run."""

POLL_HOLD_LIMIT_S = 3600.0
"""No poll is held longer than this, whatever the coordinator names."""

SHORT_POLL_S = 0.5
"""A poll that brings no run within this time was not held; the next one waits a little."""

STALE_AFTER_S = 120.0
"""Without a heartbeat for so long, the coordinator takes a runner for stale until it registers anew (section 1.1)."""

STALE_CHECK_INTERVAL_S = 30.0
"""How often a deployed coordinator looks for runners that are stale, or that it removes (section 1.1)."""

CONFLICT_LOG_INTERVAL_S = 30.0
"""How often the log repeats that another runner keeps this one from being registered."""

TOKEN_REPLACE_INTERVAL_S = 10.0
"""A token that the coordinator refuses is replaced no more often: it may refuse all."""

REMOVED_AFTER_S = 600.0
"""After so long it forgets the runner and its agents (section 1.1)."""

HEARTBEAT_MIN_S = 0.1
"""No heartbeats closer than this, whatever the coordinator asks for."""

RUN_LOOKUP_INTERVAL_S = 1.0
"""While no poll is held (runner full or draining), or what an answer carried may be lost, the list of runs is looked at
no more often than this."""

TOKEN_MARGIN_S = 60.0
"""A token is renewed this long before it expires, or"""
TOKEN_MARGIN_SHARE = 0.25
"""when this share of its life is left, where that is shorter."""

TOKEN_LIFETIME_LIMIT_S = 7 * 24 * 3600.0
"""No token is used longer than this, whatever the token service names."""

TOKEN_RESPONSE_LIMIT_BYTES = 64 * 1024
"""The largest answer of the token service that is read. A token has to fit into a header."""

UNAUTHORIZED_LIMIT_BYTES = 64 * 1024
"""The largest 401 that is read to see what it means."""

RESPONSE_LIMIT_BYTES = 64 * 1024 * 1024
"""The largest answer that is read, a script's archive included."""

POLL_NAMES_LIMIT = 10_000
"""So many sessions to stop, or scripts, may one poll name; an answer with more is no coordinator's."""

EXECUTOR_MESSAGE_LIMIT_S = 300.0
"""A message of an executor is given up when it alone is not taken for so long, while the coordinator answers others:
what comes behind it, the run's report too, would never be told."""

SESSION_BACKLOG_LIMIT_BYTES = 64 * 1024 * 1024
"""So much of one session is kept while the coordinator does not take it; an executor's further messages are refused."""


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """One retry policy for each kind of call."""

    register: RetryPolicy = RetryPolicy(base_s=0.5, cap_s=30)
    registration_conflict: RetryPolicy = RetryPolicy(base_s=1, cap_s=3, limit_s=780)
    """A runner that was killed is removed 600 s later at the most, looked at each 30 s; the rest is margin. The cap
    bounds how long a restarted runner still waits when the coordinator would already accept it."""
    poll: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=15)
    short_poll: RetryPolicy = RetryPolicy(base_s=0.05, cap_s=1)
    """Between polls that were answered at once and brought no run."""
    heartbeat: RetryPolicy = RetryPolicy(base_s=1, cap_s=15)
    delivery: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=30)
    """Reports, binds and events. The time limit of the run's `reporting` state bounds it."""
    repeated_report: RetryPolicy = RetryPolicy(base_s=2, cap_s=600)
    """Between two reports of one run that has ended here, while the coordinator still shows it as open."""
    script: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=5, limit_s=60)
    look_up: RetryPolicy = RetryPolicy(base_s=0.2, cap_s=5, limit_s=60)
    """Of `submit --wait`, for the state of its run."""
    token: RetryPolicy = RetryPolicy(base_s=0.5, cap_s=30)
    """Between questions to the token service, after a failure."""
    deregister: RetryPolicy = RetryPolicy(base_s=0.1, cap_s=1, limit_s=3)


POLICIES = Policies()
