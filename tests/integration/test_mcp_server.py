"""The MCP server: port, lazy loading, access control and stop."""

import asyncio
import contextlib
import errno
import functools
import importlib
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.errors import UsageError
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.listener import PortInUse
from fsm_runner.mcp_server import server as server_module
from fsm_runner.mcp_server import service
from fsm_runner.mcp_server.server import McpServer
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.util.threads import in_thread
from tests.support.logs import log_lines
from tests.support.mcp import HANDSHAKE, MODERN, mcp_client, mcp_server
from tests.support.program import REPOSITORY
from tests.support.watch import AT_ONCE_S, PATIENCE_S

NOBODY = "http://127.0.0.1:9"
ACCEPT = {"accept": "application/json, text/event-stream"}
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}

LAZY = """
import asyncio, sys
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.mcp_server.server import McpServer

def loaded():
    return [name for name in ("mcp", "mcp_types", "pydantic", "starlette", "uvicorn") if name in sys.modules]

async def main():
    async with CoordinatorApi("http://127.0.0.1:9") as api, McpServer(api) as server:
        await asyncio.sleep(0)
        assert not loaded(), loaded()
        host, port = server.url.removeprefix("http://").removesuffix("/mcp").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        assert b"404" in await reader.readline()
        assert {"mcp", "starlette", "uvicorn"} <= set(loaded())
        writer.close()

asyncio.run(main())
"""


async def test_the_first_connection_loads_the_sdk(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", LAZY, cwd=REPOSITORY, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, stderr.decode()) == (0, "")


async def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with CoordinatorApi(NOBODY) as api:
            with pytest.raises(PortInUse, match=rf"port {port} .*in use"):
                await McpServer(api, port).start()


async def test_an_invalid_port_is_a_usage_error() -> None:
    async with CoordinatorApi(NOBODY) as api:
        with pytest.raises(UsageError, match="70000"):
            await McpServer(api, 70_000).start()


async def test_a_configured_port_is_bound_at_the_start_and_released() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    async with CoordinatorApi(NOBODY) as api:
        for _ in range(2):
            async with McpServer(api, port) as server:
                assert server.url == f"http://127.0.0.1:{port}/mcp"
                with pytest.raises(PortInUse):
                    await McpServer(api, port).start()


async def test_a_server_that_is_not_started_has_no_url_and_can_be_closed() -> None:
    async with CoordinatorApi(NOBODY) as api:
        server = McpServer(api)
        with pytest.raises(RuntimeError, match="not started"):
            _ = server.url
        await server.aclose()


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
async def test_nothing_is_left_behind(protocol: str) -> None:
    before = asyncio.all_tasks()
    async with mcp_server(NOBODY) as server:
        async with mcp_client(server.url, protocol) as client:
            await client.list_tools()
        await server.aclose()
        await server.aclose()
    assert asyncio.all_tasks() == before


async def test_silent_connections_do_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Bounds", functools.partial(Bounds, header_within_s=10 * PATIENCE_S))
    async with mcp_server(NOBODY) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(server))
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.post(server.url, json=LIST_TOOLS, headers=ACCEPT)).status_code == 200
        body = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
        writer.write(body)
        await writer.drain()
        began = monotonic()
        await server.aclose()
        assert monotonic() - began < AT_ONCE_S
        await _ended(reader)
        writer.close()


async def test_a_stop_during_loading_is_not_logged_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    loading, may_go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def load(_: str) -> None:
        loop.call_soon_threadsafe(loading.set)
        may_go_on.wait(10 * PATIENCE_S)

    monkeypatch.setattr(importlib, "import_module", load)
    with log_lines() as lines:
        async with mcp_server(NOBODY) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", _port(server))
            await asyncio.wait_for(loading.wait(), PATIENCE_S)
            began = monotonic()
            await server.aclose()
            assert monotonic() - began < AT_ONCE_S
            await _ended(reader)
            writer.close()
    may_go_on.set()
    assert not [line for line in lines if "cannot serve" in line]


async def test_a_failure_to_load_is_logged_and_ends_only_the_mcp_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SERVICE_MODULE", "fsm_runner.mcp_server.no_such_module")
    with log_lines() as lines:
        async with mcp_server(NOBODY) as server, httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.TransportError):
                await http.post(server.url, json=LIST_TOOLS, headers=ACCEPT)
            url = server.url
    [line] = [line for line in lines if "cannot serve" in line]
    assert url in line
    assert "no_such_module" in line


async def test_a_shortage_of_threads_delays_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 2

    async def short(work: Callable[..., Any], *args: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EAGAIN, "no thread can be started")
        return await in_thread(work, *args)

    monkeypatch.setattr(server_module, "in_thread", short)
    monkeypatch.setattr(server_module, "LOADING", RetryPolicy(base_s=0.001, cap_s=0.001))
    with log_lines() as lines:
        async with mcp_server(NOBODY) as server, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            answer = await http.post(server.url, json=LIST_TOOLS, headers=ACCEPT)
    assert (failures, answer.status_code) == (0, 200)
    assert len([line for line in lines if "cannot be loaded yet" in line]) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"host": "localhost:{port}"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:{port}"}, 421),
        ({"host": "127.0.0.1:1"}, 421),
        ({"content-type": "text/plain"}, 400),
        ({"accept": "text/html"}, 406),
    ],
)
@pytest.mark.parametrize("version", [None, "2026-07-28"])
async def test_only_requests_that_name_this_server_are_answered(
    headers: dict[str, str], status: int, version: str | None
) -> None:
    async with mcp_server(NOBODY) as server, httpx.AsyncClient(trust_env=False) as http:
        port = _port(server)
        sent = {name: value.format(port=port) for name, value in headers.items()}
        body: dict[str, Any] = LIST_TOOLS
        if version is not None:
            named = {"protocolVersion": version, "clientCapabilities": {}}
            meta = {f"io.modelcontextprotocol/{name}": value for name, value in named.items()}
            body = {**LIST_TOOLS, "params": {"_meta": meta}}
            sent = {"mcp-protocol-version": version, "mcp-method": "tools/list", **sent}
        answer = await http.post(server.url, json=body, headers={**ACCEPT, **sent})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_a_413(chunked: bool) -> None:
    async def chunks() -> Any:
        for _ in range(17):
            yield b" " * 65536

    async with mcp_server(NOBODY) as server, httpx.AsyncClient(trust_env=False) as http:
        content = chunks() if chunked else b" " * (1024 * 1024 + 1)
        headers = {**ACCEPT, "content-type": "application/json"}
        answer = await http.post(server.url, content=content, headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/mcp", 405), ("DELETE", "/mcp", 405), ("PUT", "/mcp", 405), ("POST", "/", 404), ("GET", "/health", 404)],
)
async def test_other_methods_and_paths_are_refused(method: str, path: str, status: int) -> None:
    async with mcp_server(NOBODY) as server, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.request(method, server.url.removesuffix("/mcp") + path, headers=ACCEPT)
    assert answer.status_code == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"a":' * 100_000, b'{"jsonrpc": "2.0", "id": 1}'])
async def test_an_invalid_request_is_a_400_and_does_not_affect_the_next(body: bytes) -> None:
    async with mcp_server(NOBODY) as server, httpx.AsyncClient(trust_env=False) as http:
        headers = {**ACCEPT, "content-type": "application/json"}
        answer = await http.post(server.url, content=body, headers=headers)
        assert answer.status_code == 400
        assert (await http.post(server.url, json=LIST_TOOLS, headers=ACCEPT)).status_code == 200


def _port(server: McpServer) -> int:
    return int(server.url.removesuffix("/mcp").rpartition(":")[2])


async def _ended(reader: asyncio.StreamReader) -> None:
    """Return when the server has closed or reset the connection."""
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
