"""The embedded coordinator as a server: started and stopped inside somebody's event loop."""

import asyncio
import contextlib
import logging
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import uvicorn
from loguru import logger

from fsm_runner.coordinator.embedded.agents import load_agents
from fsm_runner.coordinator.embedded.app import build_app
from fsm_runner.coordinator.embedded.coordinator import Coordinator
from fsm_runner.coordinator.embedded.listener import listen, url_of
from fsm_runner.coordinator.embedded.scripts import load_scripts
from fsm_runner.coordinator.embedded.timings import Timings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
REQUESTS_END_WITHIN_S = 0.2
"""Requests still at work when the server stops may end within this time; then their connections are cut."""


class CoordinatorServer:
    """A coordinator over HTTP. An async context manager, or `start` and `stop`.

    Without `database` everything is kept in memory and lost at the end. Port 0 takes a free one. It handles no
    signals: they are the program's. `clock` gives the seconds by which runners become stale.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        database: Path | None = None,
        agents_dir: Path | None = None,
        scripts_dir: Path | None = None,
        *,
        timings: Timings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port = host, port
        self._database = database
        self._agents_dir, self._scripts_dir = agents_dir, scripts_dir
        self._timings = timings
        self._clock = clock
        self._running: _RunningServer | None = None

    @property
    def url(self) -> str:
        """The base URL for clients on this machine."""
        if self._running is None:
            raise RuntimeError("the coordinator is not started")
        return self._running.url

    async def start(self) -> None:
        """Raises UsageError: a port in use, a database that cannot be opened, a bad agent or script file."""
        scripts = {} if self._scripts_dir is None else load_scripts(self._scripts_dir)
        agents = [] if self._agents_dir is None else load_agents(self._agents_dir, scripts)
        listener = await listen(self._host, self._port)
        coordinator = Coordinator(timings=self._timings, agents=agents, scripts=scripts, clock=self._clock)
        running = _RunningServer(coordinator, listener)
        try:
            await coordinator.worker.open(self._database)
            await running.serve()
        except BaseException:
            listener.close()
            await coordinator.worker.close()
            raise
        self._running = running

    async def stop(self) -> None:
        """Held polls and event streams end at once, other requests within `REQUESTS_END_WITHIN_S`."""
        running, self._running = self._running, None
        if running is not None:
            await running.shut_down()

    async def __aenter__(self) -> "CoordinatorServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


class _RunningServer:
    """uvicorn's connections and protocol, without its own main loop and signal handlers."""

    def __init__(self, coordinator: Coordinator, listener: socket.socket) -> None:
        self.url = url_of(listener)
        self._coordinator = coordinator
        self._listener = listener
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                build_app(coordinator),
                ws="none",
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
        self._sweeping: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        self._uvicorn.config.load()
        self._uvicorn.lifespan = self._uvicorn.config.lifespan_class(self._uvicorn.config)
        await self._uvicorn.startup(sockets=[self._listener])
        self._sweeping = asyncio.create_task(self._sweep(), name="coordinator-sweep")

    async def shut_down(self) -> None:
        for server in self._uvicorn.servers:
            server.close()
        self._listener.close()
        self._coordinator.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        await self._end_connections()
        await self._coordinator.worker.close()

    async def _sweep(self) -> None:
        """Runners that nobody asks about are looked at too, for those who only listen."""
        while True:
            await asyncio.sleep(self._coordinator.timings.sweep_interval_s)
            try:
                await self._coordinator.expire_runners()
            except sqlite3.Error as error:
                logger.warning("coordinator: what silent runners held could not be written down: {}", error)

    async def _end_connections(self) -> None:
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
