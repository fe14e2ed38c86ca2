"""Event streams: who listens to changes, and what they still have to be sent (protocol.md, section 1.3)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

import msgspec

from fsm_runner.coordinator_server.store.change_events import Notice
from fsm_runner.protocol.wire import JsonObject

QUEUE_LIMIT_EVENTS = 1000
"""A listener that is further behind is cut off: it has to connect again."""


def event_text(kind: str, data: JsonObject) -> bytes:
    """One server-sent event."""
    # What clients wrote is in it as they wrote it; between the values of JSON a line may end, inside of one none does.
    line = msgspec.json.encode(data).replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), line)


class Subscription:
    def __init__(self, session_id: str | None) -> None:
        self._session_id = session_id
        self._queued: deque[bytes] = deque()
        self._ended = False
        self._changed = asyncio.Event()

    def wants(self, notice: Notice) -> bool:
        return self._session_id is None or notice.data["session_id"] == self._session_id

    def push(self, text: bytes) -> None:
        if len(self._queued) >= QUEUE_LIMIT_EVENTS:
            self.end()
        else:
            self._queued.append(text)
            self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def texts(self, keep_alive_s: float) -> AsyncIterator[bytes]:
        """What is pushed, and a comment whenever nothing was for that long; ends with the subscription."""
        while True:
            while self._queued:
                yield self._queued.popleft()
            if self._ended:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(keep_alive_s):
                    await self._changed.wait()
            except TimeoutError:
                yield b": keep-alive\n\n"


class EventHub:
    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def subscribe(self, session_id: str | None) -> Subscription:
        """For all sessions, or for one. Give it back with `unsubscribe`."""
        subscription = Subscription(session_id)
        self._subscriptions.add(subscription)
        if self._closed:
            subscription.end()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def publish(self, notices: Sequence[Notice]) -> None:
        if not self._subscriptions:
            return
        for notice in notices:
            text = event_text(notice.kind, notice.data)
            for subscription in self._subscriptions:
                if subscription.wants(notice):
                    subscription.push(text)

    def close(self) -> None:
        """All streams end at once."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
