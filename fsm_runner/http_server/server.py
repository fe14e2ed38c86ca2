"""An ASGI application as a server, started and stopped inside somebody's event loop."""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from fsm_runner.http_server.acceptor import Acceptor
from fsm_runner.http_server.connection import BoundedHttp, Bounds, Connections, bounded_http
from fsm_runner.http_server.listener import url_of

REQUESTS_END_WITHIN_S = 0.2
"""Requests still at work when a server stops may end within this time; then their connections are cut."""
HEADERS_LIMIT_BYTES = 64 * 1024
"""The longest request line with headers; more is answered with 400."""


class WebServer:
    """uvicorn's connections and protocol, without its own main loop and signal handlers: those are the program's."""

    def __init__(self, app: ASGIApp, listener: socket.socket, bounds: Bounds) -> None:
        """Takes over `listener`: it is closed at the end.

        Requests that take long are no concern of `bounds.header_within_s`: held polls, streams, slow bodies.
        """
        self.url = url_of(listener)
        """Where a client on this machine reaches it."""
        self._connections = Connections(self.url, bounds, on_change=self._resume)
        self._config = uvicorn.Config(
            app,
            ws="none",
            http=bounded_http(self._connections),
            h11_max_incomplete_event_size=HEADERS_LIMIT_BYTES,
            lifespan="off",
            log_config=None,
            # What goes wrong in a request is logged by the application; uvicorn would log it again.
            log_level=logging.CRITICAL,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        self._state = ServerState()
        self._acceptor = Acceptor(listener, self._new_protocol, name=self.url, room=self._connections)

    async def start(self) -> None:
        self._config.load()
        self._acceptor.start()

    def _new_protocol(self) -> BoundedHttp:
        # uvicorn declares the class as a plain `asyncio.Protocol`; `http` above names the real one.
        protocol: BoundedHttp = self._config.http_protocol_class(  # type: ignore[assignment, call-arg]
            config=self._config, server_state=self._state, app_state={}
        )
        return protocol

    def _resume(self) -> None:
        self._acceptor.resume()

    def stop_listening(self) -> None:
        """Accept no further connections; open ones stay open."""
        self._acceptor.stop()

    async def end_connections(self) -> None:
        """Idle ones at once; those with a request when it is answered or the time is over."""
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
