"""How much and how long the MCP server takes: all its numbers in one place."""

import msgspec

from fsm_runner.util.retry import RetryPolicy


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    sync_limit_s: float = 600.0
    """So long a call of mode `sync` waits for its run (section 4)."""
    parameters_limit_chars: int = 100_000
    """Of a session's parameters, as JSON text (section 4)."""
    result_text_limit_chars: int = 50_000
    """Of the `result_text` and of error texts that are handed on (section 4)."""
    object_limit_chars: int = 400_000
    """Of a `result_data` and of a list, as JSON text. Clients take no more than 1 MiB in one event, and it is sent
    twice: as text and as structured content."""
    body_limit_bytes: int = 1024 * 1024
    """Of a request; more is answered with 413."""
    connections: int = 400
    """Connections that clients hold at once; a call keeps one until it is answered. When all are taken, a new one
    replaces the one that has gone longest without service, or waits."""
    served_at_once: int = 150
    """Requests of one session that are served at once; further ones wait for their turn."""
    waiting_calls: int = 200
    """Calls that wait for a run at once; a further one is refused with the advice to use another mode."""
    waiting_calls_of_a_session: int = 100
    """The same of one session, so that it leaves some for the others."""
    recheck_s: float = 10.0
    """A run is looked up this often also while its session's events are listened to."""
    look_up_spacing_s: float = 0.05
    """Between two look-ups of one run, however fast its session's events come."""
    look_up: RetryPolicy = RetryPolicy(base_s=0.5, cap_s=5)
    """Waits between look-ups while there is no stream of events, or no coordinator."""
    stream: RetryPolicy = RetryPolicy(base_s=1, cap_s=30)
    """Waits before a stream that broke, or was not offered, is tried again."""
    progress_interval_s: float = 5.0
    """Between two progress notifications of a waiting call."""


LIMITS = Limits()


def limits_within(connections: int) -> Limits:
    """The limits of a server with at most this number of connections. A call that waits keeps one of them, and one
    connection to the coordinator."""
    return msgspec.structs.replace(
        LIMITS,
        connections=min(LIMITS.connections, connections),
        served_at_once=min(LIMITS.served_at_once, connections * 3 // 4),
        waiting_calls=min(LIMITS.waiting_calls, connections // 2),
        waiting_calls_of_a_session=min(LIMITS.waiting_calls_of_a_session, connections // 4),
    )
