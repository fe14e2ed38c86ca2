"""An ASGI application as a server, started and stopped inside somebody's event loop."""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp

from fsm_runner.web.connection import ConnectionBounds, bounded_http
from fsm_runner.web.listener import BACKLOG_CONNECTIONS, url_of

REQUESTS_END_WITHIN_S = 0.2
"""Requests still at work when a server stops may end within this time; then their connections are cut."""
HEADERS_LIMIT_BYTES = 64 * 1024
"""The longest request line with headers; more is answered with 400."""
MAX_CONNECTIONS = 200
"""So many are held at once, idle ones included; one more is closed. Each is an open file, of often 1,024 in all."""
HEADER_WITHIN_S = 10.0
"""A connection that has sent no whole request header within this time, at first and after each answer, is closed."""
ACCEPTED_AT_ONCE = 16
"""So many waiting connections are taken in one step of the loop: those too many hold a file until the next steps."""


class WebServer:
    """uvicorn's connections and protocol, without its own main loop and signal handlers: those are the program's."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        max_connections: int | None = MAX_CONNECTIONS,
        header_within_s: float = HEADER_WITHIN_S,
    ) -> None:
        """Takes over `listener`: it is closed at the end. `max_connections`: None for a server whose clients are many.

        Requests that take long are no concern of `header_within_s`: held polls, streams, slow bodies.
        """
        self.url = url_of(listener)
        """Where a client on this machine reaches it."""
        self._listener = listener
        bounds = ConnectionBounds(self.url, max_connections, header_within_s)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                ws="none",
                http=bounded_http(bounds),
                h11_max_incomplete_event_size=HEADERS_LIMIT_BYTES,
                backlog=ACCEPTED_AT_ONCE,
                lifespan="off",
                log_config=None,
                # What goes wrong in a request is logged by the application; uvicorn would log it again.
                log_level=logging.CRITICAL,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
            )
        )

    async def start(self) -> None:
        self._uvicorn.config.load()
        self._uvicorn.lifespan = self._uvicorn.config.lifespan_class(self._uvicorn.config)
        await self._uvicorn.startup(sockets=[self._listener])
        # The loop takes as many connections in one step as its backlog says, and tells the system the same number:
        # more of them may wait there, where they cost this program nothing.
        self._listener.listen(BACKLOG_CONNECTIONS)

    def stop_listening(self) -> None:
        """No connection is taken any more; those that are there go on."""
        for server in self._uvicorn.servers:
            server.close()
        self._listener.close()

    async def end_connections(self) -> None:
        """Idle ones at once; those with a request when it is answered or the time is over."""
        state = self._uvicorn.server_state
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=REQUESTS_END_WITHIN_S)
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            _, unfinished = await asyncio.wait(list(state.tasks), timeout=REQUESTS_END_WITHIN_S)
            for task in unfinished:
                task.cancel()
        for server in self._uvicorn.servers:
            await server.wait_closed()

    async def stop(self) -> None:
        self.stop_listening()
        await self.end_connections()
