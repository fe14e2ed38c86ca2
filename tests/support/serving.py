"""An ASGI application on a real socket of this machine."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from tests.support.deployed import checked

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving_raw(serve: Serve) -> AsyncIterator[str]:
    """The base URL of a server that hands each connection to `serve`, which closes it."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def serving(app: ASGIApp, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Its base URL, which names `localhost` where it serves over TLS."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(checked(app), ws="none", lifespan="off", log_config=None, log_level=logging.CRITICAL)
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    # A listening socket takes connections from now on, also before the server has got to them.
    task = asyncio.create_task(server.serve(sockets=[listener]), name="test server")
    try:
        port = listener.getsockname()[1]
        yield f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[str]:
    """Its URL. Each connection gets the next of these answers, the last one again and again, and is closed."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        with contextlib.suppress(ConnectionError):
            await reader.read(1 << 16)
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with serving_raw(serve) as url:
        yield url
