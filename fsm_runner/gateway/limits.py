"""How much, how long and how many: all numbers of the gateway in one place.

The limit of a request's headers is the server's, `HEADERS_LIMIT_BYTES` in `fsm_runner/http_server/server.py`;
that of what is kept for a coordinator that is away is `UNDELIVERED_LIMIT_BYTES` in
`fsm_runner/coordinator_client/policy.py`.
"""

import msgspec


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    connections: int = 1_000
    """Connections that executors hold at once. When all are taken, a new one replaces the one that has gone longest
    without service, or waits."""
    served_at_once: int = 16
    """Requests of one session that are served at once; further ones wait. At most half of the connections."""
    body_bytes: int = 16 * 1024 * 1024
    """The largest body of an executor's request; a larger one is answered with 413."""
    body_s: float = 60.0
    """How long a body may take to arrive; a slower one is answered with 408."""
    bodies_at_once: int = 4
    """So many bodies are held in memory for one door while they arrive; the next ones wait their turn."""
    forwards_at_once: int = 8
    """So many calls of one door are passed on at once, streams included; one more is answered with 429."""
    hold_s: float = 2.0
    """How long a bind, event or metadata call waits for the coordinator's own answer before it counts as taken over."""
    known_children: int = 1000
    """So many child sessions are remembered for one door; the others are asked for again."""
    look_up_s: float = 70.0
    """How long it may take to find out whose a session or run is."""


LIMITS = GatewayLimits()
