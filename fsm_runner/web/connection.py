"""A server's connections, with bounds: uvicorn has none for how many there are, nor for one that asks nothing."""

import asyncio

from loguru import logger
from uvicorn.protocols.http.h11_impl import H11Protocol

FULL_SAID_EVERY_S = 60.0
"""That connections are closed is said in the log no more often than this: whoever opens them can do so all the time."""


class ConnectionBounds:
    """What the connections of one server share."""

    def __init__(self, url: str, max_connections: int | None, header_within_s: float) -> None:
        self.header_within_s = header_within_s
        self._url = url
        self._max_connections = max_connections
        self._said_at: float | None = None

    def leave_room_for(self, connections: int) -> bool:
        """Whether one more may be taken beside so many."""
        return self._max_connections is None or connections < self._max_connections

    def say_full(self, now_s: float) -> None:
        if self._said_at is None or now_s >= self._said_at + FULL_SAID_EVERY_S:
            self._said_at = now_s
            logger.warning("{}: {} connections are open, further ones are closed", self._url, self._max_connections)


class BoundedHttp(H11Protocol):
    """One connection. Its timer runs exactly while no request is at work; what arrives meanwhile does not wind it up
    again, as it does uvicorn's keep-alive timer, which is stopped by the first byte.
    """

    bounds: ConnectionBounds
    """Set by `bounded_http`."""
    _header_timer: asyncio.TimerHandle | None = None

    # uvicorn narrows asyncio's own parameter in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self.bounds.leave_room_for(len(self.connections)):
            self.transport = transport
            self.bounds.say_full(self.loop.time())
            transport.abort()
            return
        super().connection_made(transport)
        self._time_the_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def handle_events(self) -> None:
        super().handle_events()
        self._time_the_header()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._time_the_header()

    def _time_the_header(self) -> None:
        """Called after everything that can begin or end a request."""
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_timer()
        elif self._header_timer is None:
            # What has been written already is still sent: a client may be slow to read its last answer.
            self._header_timer = self.loop.call_later(self.bounds.header_within_s, self.transport.close)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def bounded_http(bounds: ConnectionBounds) -> type[BoundedHttp]:
    """The class of one server's connections: uvicorn makes them itself and hands nothing of ours on."""
    return type("ServersHttp", (BoundedHttp,), {"bounds": bounds})
