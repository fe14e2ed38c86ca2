"""A session's endpoint: its state, and the gateway's limits."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from loguru import logger

from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.gateway.errors import GatewayError
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_channel import SessionChannel, TooMuchUndelivered
from fsm_runner.util.text import excerpt


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """All limits of the gateway but two.

    `HEADERS_LIMIT_BYTES` in `http_server/server.py` limits the headers of a request. `SESSION_BACKLOG_LIMIT_BYTES` in
    `coordinator_client/policy.py` limits the messages that wait for the coordinator.
    """

    connections: int = 1_000
    """Open connections of all executors. At the limit, a new one replaces the one idle for longest, or waits."""
    served_at_once: int = 16
    """Requests of one session served at once; further ones wait. At most half of `connections`."""
    body_bytes: int = 16 * 1024 * 1024
    """The largest request body. A larger one is a 413."""
    body_s: float = 60.0
    """The longest time in which a body may arrive. A slower one is a 408."""
    bodies_at_once: int = 4
    """Bodies of one endpoint held in memory while they arrive; further ones wait."""
    forwards_at_once: int = 8
    """Requests of one endpoint forwarded at once, streams included. One more is a 429."""
    hold_s: float = 2.0
    """The longest time that a bind, event or metadata request waits for the coordinator's response. Afterwards the
    gateway answers that it has accepted the message."""
    known_children: int = 1000
    """Child sessions remembered for one endpoint. The gateway looks the others up again."""
    look_up_s: float = 70.0
    """The time limit for finding out which session a session or run belongs to."""


LIMITS = GatewayLimits()


class GatewayEndpoint:
    """The `SessionEndpoint` of one session."""

    def __init__(
        self,
        session_id: str,
        channel: SessionChannel,
        url: str,
        limits: GatewayLimits,
        on_close: Callable[[], object],
        child_bounds: ChildBounds = unbounded,
    ) -> None:
        self.session_id = session_id
        self.channel = channel
        self.limits = limits
        self.child_bounds = child_bounds
        self.body_slots = asyncio.Semaphore(limits.bodies_at_once)
        self.closed = asyncio.Event()
        self.url = url
        self._on_close = on_close
        self._children: OrderedDict[str, None] = OrderedDict()
        self._forwards = 0
        self._is_full = False
        """Whether the last message was refused; the log names only the first refusal in a row."""
        self._overdue: set[DeliveryFuture] = set()

    def close(self) -> None:
        """Close the endpoint and end its requests, streams included."""
        self.closed.set()
        self._on_close()

    def is_known_child(self, session_id: str) -> bool:
        if is_known := session_id in self._children:
            self._children.move_to_end(session_id)
        return is_known

    def remember_child(self, session_id: str) -> None:
        self._children[session_id] = None
        self._children.move_to_end(session_id)
        if len(self._children) > self.limits.known_children:
            self._children.popitem(last=False)

    @property
    def has_overdue(self) -> bool:
        """Whether a message was not acknowledged within `hold_s` and is still pending. Later messages queue behind."""
        return any(not delivery.done() for delivery in self._overdue)

    def add_overdue(self, delivery: DeliveryFuture) -> None:
        self._overdue.add(delivery)
        delivery.add_done_callback(self._overdue.discard)

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Count one forwarded request. Raises a 429 `GatewayError` above `forwards_at_once`."""
        if self._forwards >= (limit := self.limits.forwards_at_once):
            raise GatewayError(429, f"No more than {limit} requests of one session are forwarded at once")
        self._forwards += 1
        try:
            yield
        finally:
            self._forwards -= 1

    def message_refused(self, limit: TooMuchUndelivered) -> None:
        """Log the first refusal since a message was accepted."""
        if not self._is_full:
            logger.warning("gateway: messages of an executor are refused: {}", excerpt(str(limit)))
        self._is_full = True

    def message_accepted(self) -> None:
        if self._is_full:
            logger.info("gateway: {}: messages are accepted again", excerpt(self.session_id))
        self._is_full = False
