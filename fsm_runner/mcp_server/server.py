"""The MCP server as the runner has it: bound at once, loaded when somebody comes. Cheap to import."""

import asyncio
import importlib
import socket
from types import ModuleType, TracebackType

from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.http_server.listener import listen, url_of
from fsm_runner.mcp_server.addresses import PATH, Addresses
from fsm_runner.mcp_server.limits import LIMITS, Limits
from fsm_runner.util.retry import RetryPolicy, Waits
from fsm_runner.util.threads import in_thread

HOST = "127.0.0.1"
SERVICE_MODULE = "fsm_runner.mcp_server.service"
LOADING = RetryPolicy(base_s=1.0, cap_s=10.0)


class McpServer:
    """An async context manager, or `start` and `aclose`. `port` None takes a free one.

    `open_to_all`: clients without a session's address are served too, at the bare `url`.
    Connections that come before the SDK is loaded wait in the socket's queue.
    """

    def __init__(
        self, api: CoordinatorApi, port: int | None = None, *, open_to_all: bool = False, limits: Limits = LIMITS
    ) -> None:
        self._api = api
        self._port = port
        self._limits = limits
        self._addresses = Addresses(open_to_all=open_to_all)
        self._listener: socket.socket | None = None
        self._origin = ""
        self._serving: asyncio.Task[None] | None = None
        self._loaded = False
        self._ending = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{self._started_origin}{PATH}"

    @property
    def _started_origin(self) -> str:
        if not self._origin:
            raise RuntimeError("the MCP server is not started")
        return self._origin

    def url_of(self, session_id: str) -> str:
        """The session's own address."""
        return f"{self._started_origin}{self._addresses.path_of(session_id)}"

    async def start(self) -> None:
        """Raises `UsageError` where the port cannot be had, `PortInUse` where somebody else listens there."""
        listener = await listen(HOST, self._port or 0)
        listener.setblocking(False)
        self._listener = listener
        self._origin = url_of(listener)
        asyncio.get_running_loop().add_reader(listener, self._somebody_comes, listener)

    async def aclose(self) -> None:
        """Waiting calls are answered with an error, connections end. May be repeated."""
        self._ending.set()
        self._stop_watching()
        serving, self._serving = self._serving, None
        if serving is not None:
            if not self._loaded:
                serving.cancel()
            await asyncio.wait([serving])
        if self._listener is not None:
            self._listener.close()

    async def __aenter__(self) -> "McpServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _somebody_comes(self, listener: socket.socket) -> None:
        self._stop_watching()
        self._serving = asyncio.create_task(self._serve(listener), name="mcp-server")

    def _stop_watching(self) -> None:
        if self._listener is not None and self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)

    async def _serve(self, listener: socket.socket) -> None:
        """The server's one task: it owns all that serving needs, from loading to the end."""
        try:
            service = await self._load()
            self._loaded = True
            async with service.McpService(self._api, listener, self._limits, self._addresses):
                await self._ending.wait()
        except Exception as fault:  # noqa: BLE001 - whatever it is, the runner's other work goes on without MCP
            logger.opt(exception=fault).error("the MCP server at {} cannot serve: {}", self.url, fault)
        finally:
            listener.close()

    async def _load(self) -> ModuleType:
        """Clients wait while the system has no thread or descriptor to load it with."""
        waits, is_said = Waits(LOADING), False
        while True:
            try:
                # It takes the better part of a second, for which the runner's loop must not stand still.
                return await in_thread(importlib.import_module, SERVICE_MODULE)
            except OSError as fault:
                if not is_said:
                    logger.warning("the MCP server at {} cannot be loaded yet, it is tried again: {}", self.url, fault)
                    is_said = True
            await asyncio.sleep(waits.next_s())
