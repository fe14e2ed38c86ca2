"""An ASGI application as a server inside the caller's event loop."""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from fsm_runner.http_server.acceptor import Acceptor
from fsm_runner.http_server.connection import BoundedHttp, Bounds, Connections
from fsm_runner.http_server.listener import url_of

REQUESTS_END_WITHIN_S = 0.2
"""When a server stops, requests in progress may end within this time. Then their connections are aborted."""
HEADERS_LIMIT_BYTES = 64 * 1024
"""The longest request line with headers; more is a 400."""


class WebServer:
    """uvicorn's protocol without its main loop and signal handlers: the program has its own."""

    def __init__(self, app: ASGIApp, listener: socket.socket, bounds: Bounds) -> None:
        """The server owns `listener` and closes it at the end."""
        self.url = url_of(listener)
        """The URL for clients on this machine."""
        self._connections = Connections(self.url, bounds, on_change=lambda: self._acceptor.resume())
        self._config = uvicorn.Config(
            app,
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=HEADERS_LIMIT_BYTES,
            lifespan="off",
            log_config=None,
            # The application logs its errors; uvicorn would log them again.
            log_level=logging.CRITICAL,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        self._state = ServerState()
        self._acceptor = Acceptor(
            listener,
            lambda: BoundedHttp(self._connections, self._config, self._state),
            name=self.url,
            limit=self._connections,
        )

    async def start(self) -> None:
        self._config.load()
        self._acceptor.start()

    def stop_listening(self) -> None:
        """Accept no further connections. Open ones stay open."""
        self._acceptor.stop()

    async def end_connections(self) -> None:
        """Close idle connections at once, and the others after their response or `REQUESTS_END_WITHIN_S`."""
        await self._acceptor.wait_set_up()
        state = self._state
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
        await asyncio.sleep(0)  # an aborted connection ends in the next step of the loop

    async def stop(self) -> None:
        self.stop_listening()
        await self.end_connections()
