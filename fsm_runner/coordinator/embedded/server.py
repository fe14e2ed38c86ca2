"""The embedded coordinator as a server: started and stopped inside somebody's event loop."""

import asyncio
import contextlib
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from loguru import logger

from fsm_runner.coordinator.embedded.agents import load_agents
from fsm_runner.coordinator.embedded.app import build_app
from fsm_runner.coordinator.embedded.coordinator import Coordinator
from fsm_runner.coordinator.embedded.scripts import load_scripts
from fsm_runner.coordinator.embedded.timings import Timings
from fsm_runner.web.listener import listen
from fsm_runner.web.server import WebServer

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765


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
    """A coordinator that serves."""

    def __init__(self, coordinator: Coordinator, listener: socket.socket) -> None:
        self._coordinator = coordinator
        self._web = WebServer(build_app(coordinator), listener, max_connections=None)
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self._web.url

    async def serve(self) -> None:
        await self._web.start()
        self._sweeping = asyncio.create_task(self._sweep(), name="coordinator-sweep")

    async def shut_down(self) -> None:
        self._web.stop_listening()
        self._coordinator.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        await self._web.end_connections()
        await self._coordinator.worker.close()

    async def _sweep(self) -> None:
        """Runners that nobody asks about are looked at too, for those who only listen."""
        while True:
            await asyncio.sleep(self._coordinator.timings.sweep_interval_s)
            try:
                await self._coordinator.expire_runners()
            except sqlite3.Error as error:
                logger.warning("coordinator: what silent runners held could not be written down: {}", error)
