"""The embedded coordinator as a server: started and stopped inside somebody's event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from loguru import logger

from fsm_runner.coordinator_client.http_clients import is_loopback
from fsm_runner.coordinator_server.auth.guards import local_hosts
from fsm_runner.coordinator_server.auth.token_requirements import TokenDemand
from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.http.app import build_app
from fsm_runner.coordinator_server.store.agents import load_agents
from fsm_runner.coordinator_server.store.database_errors import DatabaseTrouble
from fsm_runner.coordinator_server.store.scripts import load_scripts
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.listener import listen
from fsm_runner.http_server.server import WebServer

if TYPE_CHECKING:
    from fsm_runner.coordinator_server.auth.tokens import TokenVerifier

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_CONNECTIONS = 4_000
"""Each runner holds a poll, and each client of its events a stream."""


class CoordinatorServer:
    """A coordinator over HTTP. An async context manager, or `start` and `stop`.

    Without `database` everything is kept in memory and lost at the end. Port 0 takes a free one. It handles no
    signals: they are the program's. `demand`: the tokens that callers have to bring; None: none. `clock` gives the
    seconds by which runners become stale; None: the event loop's, which leaves out the time in which this process was
    stopped, since heartbeats may have arrived meanwhile.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        database: Path | None = None,
        agents_dir: Path | None = None,
        scripts_dir: Path | None = None,
        *,
        demand: TokenDemand | None = None,
        max_connections: int = MAX_CONNECTIONS,
        timings: Timings | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._database = database
        self._agents_dir, self._scripts_dir = agents_dir, scripts_dir
        self._demand = demand
        self._bounds = Bounds(max_connections=max_connections)
        self._timings = timings
        self._clock = clock
        self._running: _RunningServer | None = None

    @property
    def url(self) -> str:
        """The base URL for clients on this machine."""
        if self._running is None:
            raise RuntimeError("the coordinator is not started")
        return self._running.url

    @property
    def is_open_to_others(self) -> bool:
        """Whether whoever reaches this machine over a network can run agents on it."""
        if self._running is None:
            raise RuntimeError("the coordinator is not started")
        return self._demand is None and not self._running.is_on_loopback

    async def start(self) -> None:
        """Raises UsageError: a port in use, a database that cannot be opened, a bad agent or script file, a proxy or
        certificate variable that is no good."""
        scripts = {} if self._scripts_dir is None else load_scripts(self._scripts_dir)
        agents = [] if self._agents_dir is None else load_agents(self._agents_dir, scripts)
        verifier = None if self._demand is None else _verifier_of(self._demand)
        listener = await listen(self._host, self._port)
        clock = self._clock or asyncio.get_running_loop().time
        coordinator = Coordinator(timings=self._timings, agents=agents, scripts=scripts, clock=clock)
        running = _RunningServer(coordinator, listener, self._host, verifier, self._bounds)
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

    def __init__(
        self,
        coordinator: Coordinator,
        listener: socket.socket,
        host: str,
        verifier: "TokenVerifier | None",
        bounds: Bounds,
    ) -> None:
        self._coordinator = coordinator
        self._verifier = verifier
        self.is_on_loopback = is_loopback(listener.getsockname()[0])
        hosts = local_hosts(host) if self.is_on_loopback else None
        self._web = WebServer(build_app(coordinator, hosts, verifier), listener, bounds)
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
        if self._verifier is not None:
            await self._verifier.aclose()
        await self._coordinator.checks.aclose()
        await self._coordinator.worker.close()

    async def _sweep(self) -> None:
        """Runners that nobody asks about are looked at too, for those who only listen."""
        while True:
            await asyncio.sleep(self._coordinator.timings.sweep_interval_s)
            try:
                if await self._coordinator.worker.trouble() is None:
                    await self._coordinator.expire_runners()
                    await self._coordinator.close_left_runners()
            except DatabaseTrouble:  # logged by the worker
                continue
            except Exception as defect:  # noqa: BLE001 - without this task no runner would ever count as gone
                logger.opt(exception=defect).error(
                    "coordinator: the check for silent runners has failed; the next one is due as usual"
                )


def _verifier_of(demand: TokenDemand) -> "TokenVerifier":
    # Cryptography takes its time to load, and a coordinator without tokens has no use for it.
    from fsm_runner.coordinator_server.auth.tokens import TokenVerifier

    return TokenVerifier(demand)
