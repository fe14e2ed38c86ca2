"""All limits of the MCP server."""

import msgspec

from fsm_runner.coordinator_client.run_waiter import WaitPolicy


class Limits(WaitPolicy, frozen=True, kw_only=True):
    sync_limit_s: float = 600.0
    """The longest time that a call in `sync` mode waits for its run (section 4)."""
    parameters_limit_chars: int = 100_000
    """The largest parameters of a session, as JSON (section 4)."""
    result_text_limit_chars: int = 50_000
    """The longest `result_text` or error text returned (section 4)."""
    object_limit_chars: int = 400_000
    """The largest `result_data` or list returned, as JSON. Clients accept 1 MiB per event, and an event contains the
    object twice: as text and as structured content."""
    body_limit_bytes: int = 1024 * 1024
    """The largest request body. A larger one is a 413."""
    connections: int = 400
    """Open connections of all clients. A call keeps one until it is answered. At the limit, a new connection replaces
    the one idle for longest, or waits."""
    served_at_once: int = 150
    """Requests of one session served at once; further ones wait."""
    waiting_calls: int = 200
    """Calls that wait for a run at once. A further one is refused with the advice to use another mode."""
    waiting_calls_of_a_session: int = 100
    """The same for the calls of one session, so that other sessions can call too."""
    progress_interval_s: float = 5.0
    """The interval between progress notifications of a waiting call."""


LIMITS = Limits()


def limits_within(connections: int) -> Limits:
    """Return the limits for at most this number of connections.

    A waiting call needs a connection of the server and one to the coordinator.
    """
    return msgspec.structs.replace(
        LIMITS,
        connections=min(LIMITS.connections, connections),
        served_at_once=min(LIMITS.served_at_once, connections * 3 // 4),
        waiting_calls=min(LIMITS.waiting_calls, connections // 2),
        waiting_calls_of_a_session=min(LIMITS.waiting_calls_of_a_session, connections // 4),
    )
