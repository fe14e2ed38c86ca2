"""The embedded coordinator as a server inside the caller's event loop."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fsm_runner.coordinator_client.http_clients import is_loopback
from fsm_runner.coordinator_server.agents import load_agents
from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.event_bus import EventBus
from fsm_runner.coordinator_server.housekeeping import Housekeeping
from fsm_runner.coordinator_server.http.app import build_app
from fsm_runner.coordinator_server.http.guards import local_hosts
from fsm_runner.coordinator_server.scripts import load_scripts
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.listener import listen
from fsm_runner.http_server.server import WebServer

if TYPE_CHECKING:
    from fsm_runner.coordinator_server.auth.tokens import TokenRequirements, TokenVerifier

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_CONNECTIONS = 4_000
"""Each runner holds a poll, and each subscriber to events a stream."""


class CoordinatorServer:
    """A coordinator over HTTP. An async context manager, or `start` and `stop`. It handles no signals."""

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        database: Path | None = None,
        agents_dir: Path | None = None,
        scripts_dir: Path | None = None,
        *,
        keep_runs_s: float | None = None,
        token_requirements: "TokenRequirements | None" = None,
        max_connections: int = MAX_CONNECTIONS,
        timings: Timings | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Port 0 takes a free one. `database` None keeps all data in memory. `token_requirements` None: callers need
        no token. `keep_runs_s`: sessions are deleted this long after the end of their last run; None: never.

        `clock` returns seconds, by which runners become stale. None: the event loop's clock, which leaves out pauses of
        this process, since heartbeats may have arrived during a pause.
        """
        self._host, self._port = host, port
        self._database = database
        self._agents_dir, self._scripts_dir = agents_dir, scripts_dir
        self._keep_runs_s = keep_runs_s
        self._token_requirements = token_requirements
        self._bounds = Bounds(max_connections=max_connections)
        self._timings = timings or Timings()
        self._clock = clock
        self._web: WebServer | None = None
        self._is_on_loopback = False
        self._stack = AsyncExitStack()
        """Ends everything that `start` has started."""

    @property
    def url(self) -> str:
        """The base URL for clients on this machine."""
        if self._web is None:
            raise RuntimeError("the coordinator is not started")
        return self._web.url

    @property
    def is_open_to_others(self) -> bool:
        """Whether anyone who reaches this machine over a network can run agents on it."""
        return self._token_requirements is None and not self._is_on_loopback

    async def start(self) -> None:
        """Raises `UsageError` if the port is in use, the database cannot be opened, an agent or script file is invalid,
        or a proxy or certificate variable is invalid."""
        scripts = {} if self._scripts_dir is None else load_scripts(self._scripts_dir)
        agents = [] if self._agents_dir is None else load_agents(self._agents_dir, scripts)
        verifier = None if self._token_requirements is None else _verifier_of(self._token_requirements)
        listener = await listen(self._host, self._port)
        clock = self._clock or asyncio.get_running_loop().time
        async with AsyncExitStack() as stack:
            stack.callback(listener.close)
            event_bus = EventBus()
            store = SqliteStore(self._database, event_bus.publish)
            self.coordinator = coordinator = Coordinator(store, event_bus, self._timings, agents, scripts, clock)
            stack.push_async_callback(coordinator.aclose)
            await coordinator.open()
            if verifier is not None:
                stack.push_async_callback(verifier.aclose)
            self._is_on_loopback = is_loopback(listener.getsockname()[0])
            hosts = local_hosts(self._host) if self._is_on_loopback else None
            web = WebServer(
                build_app(coordinator, hosts, None if verifier is None else verifier.check), listener, self._bounds
            )
            await web.start()
            stack.push_async_callback(web.end_connections)
            await stack.enter_async_context(Housekeeping(coordinator, self._keep_runs_s))
            stack.callback(coordinator.end_streams)
            stack.callback(web.stop_listening)
            self._web, self._stack = web, stack.pop_all()

    async def stop(self) -> None:
        """End held polls and event streams at once, and other requests within `REQUESTS_END_WITHIN_S`."""
        self._web = None
        await self._stack.aclose()

    async def __aenter__(self) -> "CoordinatorServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _verifier_of(requirements: "TokenRequirements") -> "TokenVerifier":
    # The import of the cryptography library is slow, and only this needs it.
    from fsm_runner.coordinator_server.auth.tokens import TokenVerifier

    return TokenVerifier(requirements)
