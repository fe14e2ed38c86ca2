"""An ASGI application on a real socket of this machine."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, log_level=logging.CRITICAL)
    server = uvicorn.Server(config)
    # A listening socket takes connections from now on, also before the server has got to them.
    task = asyncio.create_task(server.serve(sockets=[listener]), name="test server")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
