"""A server's connections, with bounds: uvicorn limits neither their number nor the time without a request."""

import asyncio
import select
from collections.abc import Callable, Hashable
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from fsm_runner.diagnostics.rare_warning import RareWarning
from fsm_runner.http_server.acceptor import REPEATED_EACH_S, WHEN_ONE_ENDS
from fsm_runner.http_server.request_limit import Overloaded, Turns

OwnerOf = Callable[[Scope], Hashable]
"""Maps a request to its owner. Requests that it maps to None have one owner together."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits for the connections of one server."""

    max_connections: int
    """Connections held at once, idle ones included. When all are taken, a new one replaces the one that has gone
    longest without service, or waits in the system's queue."""
    header_within_s: float = 10.0
    """A connection that has sent no whole request header within this time, at first and after each answer, is
    closed."""
    replaceable_after_s: float = 2.0
    """How long a connection must have gone without service before a new one may replace it. Clients use an idle
    connection for a shorter time (`KEPT_IDLE_S` of the SDK), so no request can be under way on it."""
    served_at_once: int | None = None
    """Requests of one owner that are served at once; further ones wait for their turn. None: no limit."""
    client_of: OwnerOf = lambda _: None


class Connections:
    """What the connections of one server share."""

    def __init__(self, url: str, bounds: Bounds, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a connection has ended, and when one goes without service from now on."""
        self.bounds = bounds
        self.turns = None if bounds.served_at_once is None else Turns(bounds.served_at_once)
        self._on_change = on_change
        self._url = url
        self._open: set[BoundedHttp] = set()
        self._unserved: dict[BoundedHttp, float] = {}
        """Since when each goes without service, longest first; loop time in seconds."""
        self.is_waited_for = False
        """Whether new connections wait in the system's queue."""
        self._full = RareWarning(REPEATED_EACH_S)

    def has_room(self, being_set_up: int) -> bool:
        has_room = len(self._open) + being_set_up < self.bounds.max_connections
        self.is_waited_for = self.is_waited_for and not has_room
        return has_room

    def make_room(self) -> float:
        """The connection that has gone longest without service gives way. See `Room`."""
        self.is_waited_for = True
        now_s = asyncio.get_running_loop().time()
        for connection, since_s in self._unserved.items():
            if now_s < since_s + self.bounds.replaceable_after_s:
                return since_s + self.bounds.replaceable_after_s - now_s
            if not connection.has_unread_request():
                connection.give_way()
                return WHEN_ONE_ENDS  # that one, in the next step of the loop
        message = "{}: {} connections are open and in use, new ones wait"
        self._full.log(message, self._url, self.bounds.max_connections)
        return WHEN_ONE_ENDS

    def opened(self, connection: "BoundedHttp") -> None:
        self._open.add(connection)

    def ended(self, connection: "BoundedHttp") -> None:
        self._open.discard(connection)
        self._unserved.pop(connection, None)
        self._on_change()

    def unserved(self, connection: "BoundedHttp") -> None:
        """From now on it is idle, waits for its turn, or only sends the rest of its last answer."""
        self._unserved.setdefault(connection, asyncio.get_running_loop().time())
        self._on_change()

    def served(self, connection: "BoundedHttp") -> None:
        self._unserved.pop(connection, None)


class BoundedHttp(H11Protocol):
    """One connection. Its header timer runs exactly while no request is at work. Bytes that arrive do not restart it,
    unlike uvicorn's keep-alive timer, which the first byte stops.
    """

    others: Connections
    """This one and the others of its server; set by `bounded_http`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application = self.app
        self.app = self._serve
        self._header_timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Future[None] | None = None
        """The turn that its request waits for."""

    # uvicorn narrows asyncio's own parameter in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.others.opened(self)
        self._time_the_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        self._refuse_turn()
        self.others.ended(self)

    def handle_events(self) -> None:
        super().handle_events()
        self._time_the_header()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._time_the_header()

    def has_unread_request(self) -> bool:
        """Whether a request has arrived that the server has not read yet."""
        if self._turn is not None or self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def give_way(self) -> None:
        """Make room for another one. A request that waits for its turn is answered with 503."""
        self.others.served(self)
        if self._turn is None:
            self.transport.abort()
        else:
            self._refuse_turn()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_to_client(message: Message) -> None:
            if message["type"] == "http.response.start" and self.others.is_waited_for:
                # The connection may be replaced soon. The header keeps the client from using it for its next request.
                message = {**message, "headers": [*message.get("headers", []), CLOSE_HEADER]}
            await send(message)

        turns = self.others.turns
        if turns is None:
            await self._application(scope, receive, send_to_client)
            return
        owner = self.others.bounds.client_of(scope)
        try:
            await self._take_turn(turns, owner)
        except Overloaded:
            await _answer_overloaded(send_to_client)
            return
        try:
            await self._application(scope, receive, send_to_client)
        finally:
            turns.end(owner)

    async def _take_turn(self, turns: Turns, owner: Hashable) -> None:
        self._turn = turns.begin(owner)
        if self._turn is None:
            return
        self.others.unserved(self)
        try:
            await turns.come(owner, self._turn)
        finally:
            self._turn = None
            self.others.served(self)

    def _refuse_turn(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(Overloaded())

    def _time_the_header(self) -> None:
        """Called after everything that can begin or end a request."""
        if self.transport.is_closing():
            self._stop_timer()
            # The rest of its last answer is still sent, unless a new connection needs the place.
            self.others.unserved(self)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._header_timer is None:
            # What has been written already is still sent: a client may be slow to read its last answer.
            within_s = self.others.bounds.header_within_s
            self._header_timer = self.loop.call_later(within_s, self.transport.close)
            self.others.unserved(self)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            self.others.served(self)


async def _answer_overloaded(send: Send) -> None:
    body = b'{"detail":"Too many requests of this session are at work; send fewer at once"}'
    headers = [(b"content-type", b"application/json"), CLOSE_HEADER, (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def bounded_http(others: Connections) -> type[BoundedHttp]:
    """The class of one server's connections: uvicorn makes them itself and passes on nothing of ours."""
    return type("ServersHttp", (BoundedHttp,), {"others": others})
