"""The proxies and certificates of HTTP clients."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.http_clients import ClientFactory, is_loopback
from fsm_runner.errors import UsageError

LIMIT_S = 10.0


@asynccontextmanager
async def refusing_proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Yield the URL of a server, and the first lines of its requests."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def asked_of_the_proxy(url: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[bytes]:
    async with refusing_proxy() as (proxy_url, asked):
        for name, value in {"HTTPS_PROXY": proxy_url, "NO_PROXY": "", **variables}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Unreachable, match=re.escape(url)):
            await ClientFactory(url, "test").single_call("GET", timeout_s=LIMIT_S, limit_bytes=10)
    return asked


async def test_another_host_is_called_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await asked_of_the_proxy("https://tenant.invalid/oauth/token", monkeypatch)
    assert asked == [b"CONNECT tenant.invalid:443 HTTP/1.1\r\n"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
async def test_this_machine_is_called_directly(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await asked_of_the_proxy(f"https://{host}:9/", monkeypatch) == []


async def test_an_exempt_host_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await asked_of_the_proxy("https://tenant.invalid/", monkeypatch, NO_PROXY="tenant.invalid") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "/no/such/file"), ("SSL_CERT_FILE", __file__), ("HTTPS_PROXY", "nonsense://x")],
)
def test_an_invalid_variable_is_reported(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"\b{name}\b.* cannot be used: "):
        ClientFactory("https://tenant.invalid/", "token service")


@pytest.mark.parametrize("host", ["", "tenant.example", "10.0.0.1", "localhost.example", "0.0.0.0"])
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)
