"""A door: what one address opens."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loguru import logger

from fsm_runner.gateway.errors import Refusal
from fsm_runner.gateway.limits import GatewayLimits
from fsm_runner.reporting.outbox import DeliveryFuture
from fsm_runner.reporting.session_channel import SessionChannel, TooMuchUndelivered
from fsm_runner.util.text import excerpt


class GatewayEndpoint:
    """The `SessionEndpoint` of one session."""

    def __init__(
        self,
        session_id: str,
        channel: SessionChannel,
        url: str,
        limits: GatewayLimits,
        on_close: Callable[[], None],
    ) -> None:
        self.session_id = session_id
        self.channel = channel
        self.limits = limits
        self.body_turns = asyncio.Semaphore(limits.bodies_at_once)
        self.closed = asyncio.Event()
        self._url = url
        self._on_close = on_close
        self._children: OrderedDict[str, None] = OrderedDict()
        self._forwards = 0
        self._is_full = False
        self._overdue: set[DeliveryFuture] = set()

    @property
    def url(self) -> str:
        return self._url

    def close(self) -> None:
        """Streams end too."""
        self.closed.set()
        self._on_close()

    def has_child(self, session_id: str) -> bool:
        """Whether it is remembered as one."""
        if session_id not in self._children:
            return False
        self._children.move_to_end(session_id)
        return True

    def remember_child(self, session_id: str) -> None:
        self._children[session_id] = None
        self._children.move_to_end(session_id)
        while len(self._children) > self.limits.known_children:
            self._children.popitem(last=False)

    @property
    def is_overdue(self) -> bool:
        """Whether a message that has been waited for in vain is still not answered: the next ones are behind it."""
        return any(not answered.done() for answered in self._overdue)

    def say_overdue(self, answered: DeliveryFuture) -> None:
        """This message is not waited for any more."""
        self._overdue.add(answered)
        answered.add_done_callback(self._overdue.discard)

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """One call that is passed on. Raises a 429 `Refusal` where there are too many already."""
        if self._forwards >= self.limits.forwards_at_once:
            raise Refusal(
                429, f"No more than {self.limits.forwards_at_once} calls of one session are passed on at once"
            )
        self._forwards += 1
        try:
            yield
        finally:
            self._forwards -= 1

    def say_full(self, limit: TooMuchUndelivered) -> None:
        """In the log, once until something is taken again."""
        if not self._is_full:
            logger.warning("gateway: messages of an executor are refused: {}", excerpt(str(limit)))
        self._is_full = True

    def say_taken(self) -> None:
        if self._is_full:
            logger.info("gateway: {}: messages are taken again", excerpt(self.session_id))
        self._is_full = False
