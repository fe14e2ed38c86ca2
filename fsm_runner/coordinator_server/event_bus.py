"""Event streams: the subscribers to changes, and the server-sent events queued for each (protocol.md, section 1.3)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from fsm_runner.coordinator_server.store.interface import ChangeEvent
from fsm_runner.protocol.wire import JsonObject

QUEUE_LIMIT_EVENTS = 1000
"""A subscriber with more queued events is disconnected and has to connect again."""


def server_sent_event(event_type: str, data: JsonObject) -> bytes:
    # Clients' JSON is embedded as they wrote it. It may have line breaks between values, but never within one.
    line = msgspec.json.encode(data).replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %s\ndata: %s\n\n" % (event_type.encode(), line)


class Subscription:
    def __init__(self, session_id: str | None) -> None:
        self._session_id = session_id
        self._queued: deque[bytes] = deque()
        self._is_ended = False
        self._changed = asyncio.Event()

    def includes(self, event: ChangeEvent) -> bool:
        return self._session_id is None or event.data["session_id"] == self._session_id

    def push(self, text: bytes) -> None:
        if len(self._queued) >= QUEUE_LIMIT_EVENTS:
            self.end()
        else:
            self._queued.append(text)
            self._changed.set()

    def end(self) -> None:
        self._is_ended = True
        self._changed.set()

    async def texts(self, keep_alive_s: float) -> AsyncIterator[bytes]:
        """Yield the events until the subscription ends, and a comment after each `keep_alive_s` without an event."""
        while True:
            while self._queued:
                yield self._queued.popleft()
            if self._is_ended:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(keep_alive_s):
                    await self._changed.wait()
            except TimeoutError:
                yield b": keep-alive\n\n"


class EventBus:
    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._is_closed = False

    @contextmanager
    def subscription(self, session_id: str | None) -> Iterator[Subscription]:
        """Subscribe to one session's events; None: to those of all sessions."""
        subscription = Subscription(session_id)
        self._subscriptions.add(subscription)
        if self._is_closed:
            subscription.end()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, events: Sequence[ChangeEvent]) -> None:
        if not self._subscriptions:
            return
        for event in events:
            text = server_sent_event(event.type, event.data)
            for subscription in self._subscriptions:
                if subscription.includes(event):
                    subscription.push(text)

    def close(self) -> None:
        """End all streams at once."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.end()
