"""The MCP server of a runner: it listens at once, and loads the SDK with the first connection. Cheap to import."""

import asyncio
import importlib
import socket

from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.diagnostics.logs import RareWarning
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.http_server.acceptor import REPEATED_EACH_S
from fsm_runner.http_server.listener import listen, url_of
from fsm_runner.mcp_server.caller import PATH, Addresses
from fsm_runner.mcp_server.limits import LIMITS, Limits
from fsm_runner.util.retry import RetryPolicy, retrying
from fsm_runner.util.threads import in_thread

HOST = "127.0.0.1"
SERVICE_MODULE = "fsm_runner.mcp_server.service"
LOADING = RetryPolicy(base_s=1.0, cap_s=10.0)


class McpServer:
    """An async context manager, or `start` and `aclose`.

    Connections that arrive before the SDK is loaded wait in the socket's queue.
    """

    def __init__(
        self,
        api: CoordinatorApi,
        port: int | None = None,
        *,
        open_to_all: bool = False,
        limits: Limits = LIMITS,
        child_bounds: ChildBounds = unbounded,
    ) -> None:
        """`port` None takes a free one. `open_to_all` also serves clients without a session's address, at `url`.

        `child_bounds` limits the starts of sessions by sessions.
        """
        self._api = api
        self._port = port
        self._limits = limits
        self._child_bounds = child_bounds
        self._addresses = Addresses(open_to_all=open_to_all)
        self._listener: socket.socket | None = None
        self._origin = ""
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"{self._started_origin}{PATH}"

    @property
    def _started_origin(self) -> str:
        if not self._origin:
            raise RuntimeError("the MCP server is not started")
        return self._origin

    def url_of(self, session_id: str) -> str:
        """Return the address of the session."""
        return f"{self._started_origin}{self._addresses.path_of(session_id)}"

    async def start(self) -> None:
        """Listen on the port. Raises `UsageError` if that fails, its subclass `PortInUse` if the port is in use."""
        listener = await listen(HOST, self._port or 0)
        listener.setblocking(False)
        self._listener = listener
        self._origin = url_of(listener)
        asyncio.get_running_loop().add_reader(listener, self._on_first_connection, listener)

    async def aclose(self) -> None:
        """Answer waiting calls with an error and close all connections. May be repeated."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._serving is None:
            asyncio.get_running_loop().remove_reader(listener)
        else:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        listener.close()

    async def __aenter__(self) -> "McpServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _on_first_connection(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listener)
        self._serving = asyncio.create_task(self._serve(listener), name="mcp-server")

    async def _serve(self, listener: socket.socket) -> None:
        """Load the SDK and serve until cancelled. This task owns everything that serving needs."""
        warning, message = RareWarning(REPEATED_EACH_S), "the MCP server at {} cannot be loaded yet, retrying: {}"
        try:
            service = await retrying(
                # The import takes most of a second, too long for the event loop.
                lambda: in_thread(importlib.import_module, SERVICE_MODULE),
                LOADING,
                (OSError,),  # the system has no thread or descriptor for the import; clients wait
                on_wait=lambda fault, _: warning.log(message, self.url, fault),
            )
            serving = service.McpService(self._api, listener, self._limits, self._addresses, self._child_bounds)
            await serving.serve()
        except Exception as fault:  # noqa: BLE001 - the runner continues without MCP, whatever the cause
            logger.opt(exception=fault).error("the MCP server at {} cannot serve: {}", self.url, fault)
        finally:
            listener.close()
