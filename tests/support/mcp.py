"""The MCP server with the SDK's client, and a connection to the coordinator that can be cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.server import McpServer
from fsm_runner.protocol.wire import RunState
from fsm_runner.util.retry import RetryPolicy
from tests.support.embedded import EmbeddedCoordinator, embedded_coordinator
from tests.support.watch import PATIENCE_S, Watch

MODERN, HANDSHAKE = "auto", "legacy"
"""The two protocol generations, as the SDK's client names them."""

QUICK = Limits(
    sync_limit_s=10 * PATIENCE_S,
    look_up=RetryPolicy(base_s=0.02, cap_s=0.05),
    stream=RetryPolicy(base_s=0.02, cap_s=0.05),
    recheck_s=3600,
)
"""Looks runs up often without a stream, and never with one."""

TOOL_NAMES = [
    "list_agent_blueprints",
    "list_agent_sessions",
    "start_agent_session",
    "resume_agent_session",
    "get_agent_session_status",
    "get_agent_session_result",
    "delete_all_agent_sessions",
]
MODES = ["sync", "async_poll", "async_callback"]

READ_BYTES = 64 * 1024


@asynccontextmanager
async def mcp_client(url: str, mode: str = MODERN, **headers: str | bytes) -> AsyncIterator[Client]:
    """`headers` have underscores in place of dashes."""
    named: Any = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        httpx2.AsyncClient(headers=named, timeout=2 * PATIENCE_S, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


@asynccontextmanager
async def mcp_server(coordinator_url: str, limits: Limits = QUICK) -> AsyncIterator[McpServer]:
    async with CoordinatorApi(coordinator_url) as api, McpServer(api, open_to_all=True, limits=limits) as server:
        yield server


class RecordingApi(CoordinatorApi):
    """Records the status of each look-up of a run."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.looked_up: list[str] = []
        self._watch = Watch(lambda: f"looked up: {self.looked_up}")

    async def run_state(self, run_id: str) -> RunState:
        state = await super().run_state(run_id)
        self.looked_up.append(state.status)
        self._watch.changed()
        return state

    async def reports_next(self, status: str, times: int = 1) -> None:
        """Return after `times` further look-ups with this status."""
        before = self.looked_up.count(status)
        await self._watch.until(lambda: self.looked_up.count(status) >= before + times, f"{times} times {status}")

    async def has_reported(self, status: str) -> None:
        await self._watch.until(lambda: status in self.looked_up, status)


def said(result: CallToolResult) -> Any:
    """Return the result of a tool. Its text and its structured content must be equal."""
    [block] = result.content
    assert isinstance(block, TextContent)
    value = msgspec.json.decode(block.text)
    assert result.structured_content == (value if isinstance(value, dict) else {"result": value})
    assert bool(result.is_error) == (isinstance(value, Mapping) and "error" in value)
    return value


@asynccontextmanager
async def coordinator_and_client(
    protocol: str = MODERN, agents_dir: Path | None = None, **headers: str | bytes
) -> AsyncIterator[tuple[EmbeddedCoordinator, Client]]:
    """A coordinator without a runner, and an MCP server that talks to it."""
    async with (
        embedded_coordinator(agents_dir=agents_dir) as coordinator,
        mcp_server(coordinator.server.url) as server,
        mcp_client(server.url, protocol, **headers) as client,
    ):
        yield coordinator, client


async def call(client: Client, name: str, **arguments: Any) -> Any:
    return said(await client.call_tool(name, arguments))


async def finished(coordinator: EmbeddedCoordinator, runner_id: str, **result: Any) -> dict[str, Any]:
    """Return an idle session of an autonomous agent with this result."""
    run = await coordinator.prompt()
    await coordinator.claim(runner_id)
    await coordinator.bind(run)
    assert (await coordinator.event(run, event_type="result", **result)).status_code == 201
    assert (
        await coordinator.report(run, "completed", runner_id, status="success", session_status="idle")
    ).status_code == 200
    return run


class Line:
    """A transparent TCP proxy. `cut` ends its connections until `restore`."""

    def __init__(self, target_url: str) -> None:
        parts = urlsplit(target_url)
        assert parts.hostname is not None
        self._target = (parts.hostname, parts.port)
        self._open: set[asyncio.Task[None]] = set()
        self._whole = True
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Line":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """End all connections, and new ones at once."""
        self._whole = False
        for connection in list(self._open):
            connection.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    def restore(self) -> None:
        self._whole = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if self._whole:
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # an end has disconnected, or the proxy is cut
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        ways = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            far_writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()


def waiting_tasks() -> set[str]:
    """Return the names of the tasks of waiting calls in this event loop."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("events of ", "mcp-progress-"))}


async def until_a_call_waits() -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not waiting_tasks():  # noqa: ASYNC110 - the program has no event for this
            await asyncio.sleep(0)


async def until_nothing_waits() -> None:
    async with asyncio.timeout(PATIENCE_S):
        while waiting_tasks():  # noqa: ASYNC110 - the program has no event for this
            await asyncio.sleep(0)
