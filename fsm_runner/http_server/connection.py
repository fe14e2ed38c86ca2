"""A server's connections with limits: uvicorn limits neither their number nor the time without a request."""

import asyncio
import select
from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

import msgspec
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fsm_runner.diagnostics.logs import RareWarning
from fsm_runner.http_server.acceptor import REPEATED_EACH_S, UNTIL_RESUMED
from fsm_runner.http_server.responses import error_response


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits for the connections of one server."""

    max_connections: int
    """Open connections, idle ones included. At the limit, a new one replaces the one idle for longest, or waits in the
    system's queue."""
    header_within_s: float = 10.0
    """A connection without a complete request header for this long, from its start or the last response, is closed."""
    replaceable_after_s: float = 2.0
    """How long a connection must be idle before a new one may replace it. Clients reuse an idle connection for a
    shorter time (`IDLE_LIMIT_S` of the SDK), so no request can be in flight on it."""
    served_at_once: int | None = None
    """Requests of one client that are served at once; further ones wait. None: no limit."""
    client_of: Callable[[Scope], Hashable] = lambda _: None
    """Identifies the client of a request. All requests with the result None count as one client's."""


class Connections:
    """The connections of one server. A `ConnectionLimit`."""

    def __init__(self, url: str, bounds: Bounds, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a connection has ended or becomes idle."""
        self.bounds = bounds
        self._on_change = on_change
        self._url = url
        self._open: set[BoundedHttp] = set()
        self._idle: dict[BoundedHttp, float] = {}
        """The loop time in seconds since which each is idle, longest first."""
        self._slots: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()
        """One for each client whose requests are served or wait."""
        self.is_full = False
        """Whether new connections wait in the system's queue."""
        self._full_warning = RareWarning(REPEATED_EACH_S)

    def has_room(self, pending: int) -> bool:
        has_room = len(self._open) + pending < self.bounds.max_connections
        self.is_full = self.is_full and not has_room
        return has_room

    def make_room(self) -> float:
        """Close the connection that has been idle for longest."""
        self.is_full = True
        now_s = asyncio.get_running_loop().time()
        for connection, since_s in self._idle.items():
            if now_s < since_s + self.bounds.replaceable_after_s:
                return since_s + self.bounds.replaceable_after_s - now_s
            if not connection.has_unread_data():
                connection.make_room()
                return UNTIL_RESUMED  # it ends in the next step of the loop
        message = "{}: {} connections are open and in use, new ones wait"
        self._full_warning.log(message, self._url, self.bounds.max_connections)
        return UNTIL_RESUMED

    def slots_of(self, client: Hashable, count: int) -> asyncio.Semaphore:
        """Return the semaphore of the client's requests, which the request has to hold a reference to."""
        return self._slots.setdefault(client, asyncio.Semaphore(count))

    def add(self, connection: "BoundedHttp") -> None:
        self._open.add(connection)

    def remove(self, connection: "BoundedHttp") -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._on_change()

    def mark_idle(self, connection: "BoundedHttp") -> None:
        """The connection has no request, its request waits for its turn, or the rest of a response is being sent."""
        self._idle.setdefault(connection, asyncio.get_running_loop().time())
        self._on_change()

    def mark_busy(self, connection: "BoundedHttp") -> None:
        self._idle.pop(connection, None)


class BoundedHttp(H11Protocol):
    """One connection. Its header timer runs exactly while no request is in progress.

    Bytes that arrive do not affect the timer, while the first byte stops uvicorn's keep-alive timer.
    """

    def __init__(self, server_connections: Connections, config: Config, state: ServerState) -> None:
        """`server_connections` has all connections of the server."""
        super().__init__(config, state, app_state={})
        self.server_connections = server_connections
        self._application = self.app
        self.app = self._serve
        self._header_timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Timeout | None = None
        """Ends the wait of its request for a turn. Its only deadline is the one that `_refuse_turn` sets."""

    # uvicorn narrows asyncio's own parameter in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.server_connections.add(self)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        self._refuse_turn()
        self.server_connections.remove(self)

    def handle_events(self) -> None:
        super().handle_events()
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def has_unread_data(self) -> bool:
        """Return whether data has arrived that the server has not read yet."""
        if self._turn is not None or self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def make_room(self) -> None:
        """Close the connection. A request that waits for its turn gets a 503."""
        self.server_connections.mark_busy(self)
        if self._turn is None:
            self.transport.abort()
        else:
            self._refuse_turn()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_to_client(message: Message) -> None:
            if message["type"] == "http.response.start" and self.server_connections.is_full:
                # The connection may be replaced soon. The header keeps the client from using it for its next request.
                message = {**message, "headers": [*message.get("headers", []), CLOSE_HEADER]}
            await send(message)

        bounds = self.server_connections.bounds
        if bounds.served_at_once is None:
            await self._application(scope, receive, send_to_client)
            return
        slots = self.server_connections.slots_of(bounds.client_of(scope), bounds.served_at_once)
        try:
            await self._take_turn(slots)
        except TimeoutError:
            detail = "Too many requests of this session are in progress; send fewer at once"
            response = error_response(503, detail, {"connection": "close", "retry-after": "1"})
            await response(scope, receive, send)
            return
        try:
            await self._application(scope, receive, send_to_client)
        finally:
            slots.release()

    async def _take_turn(self, slots: asyncio.Semaphore) -> None:
        """Acquire a slot. Raises TimeoutError after `_refuse_turn`."""
        if not slots.locked():
            await slots.acquire()
            return
        self.server_connections.mark_idle(self)
        try:
            async with asyncio.timeout(None) as self._turn:
                await slots.acquire()
        finally:
            self._turn = None
            self.server_connections.mark_busy(self)

    def _refuse_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.reschedule(self.loop.time())

    def _update_timer(self) -> None:
        """Start or stop the header timer, after everything that can begin or end a request."""
        if self.transport.is_closing():
            self._stop_timer()
            # The rest of the last response is still sent, unless a new connection needs the place.
            self.server_connections.mark_idle(self)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._header_timer is None:
            # `close` still sends what has been written: a client may read its last response slowly.
            within_s = self.server_connections.bounds.header_within_s
            self._header_timer = self.loop.call_later(within_s, self.transport.close)
            self.server_connections.mark_idle(self)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            self.server_connections.mark_busy(self)
