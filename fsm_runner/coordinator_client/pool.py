"""Kept-alive connections to one coordinator, each with a client of its own.

An httpx pool looks at all its connections when a request begins and when it ends. With twenty connections that was two
fifths of a run's cost in the event loop. So each httpx pool here has a single connection, and a stack selects one.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx

from fsm_runner.coordinator_client.policy import KEEPALIVE_S

ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_S)
"""The limits of each client of a `ConnectionPool`."""


class ConnectionPool:
    """At most `limit` connections in use; further callers wait."""

    def __init__(self, new_client: Callable[[], httpx.AsyncClient], limit: int) -> None:
        self._new_client = new_client
        self._capacity = asyncio.Semaphore(limit)
        self._open: set[httpx.AsyncClient] = set()
        self._idle: deque[tuple[httpx.AsyncClient, float]] = deque()
        """The idle clients with the times of their last use, the most recently used one last."""

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[httpx.AsyncClient]:
        """Yield an idle client: the most recently used one, so that the others expire.

        The client is closed if the body raises: a request that is cancelled at the wrong moment leaves its connection
        in use for ever, and the next request would wait for it.
        """
        async with self._capacity:
            client = self._idle.pop()[0] if self._idle else self._new_client()
            self._open.add(client)
            try:
                await self._close_expired()
                yield client
            except BaseException:
                await self._close(client)
                raise
            self._idle.append((client, time.monotonic()))

    async def aclose(self) -> None:
        """Close all connections, including those in use."""
        while self._open:
            await self._open.pop().aclose()

    async def _close_expired(self) -> None:
        expired_before_s = time.monotonic() - KEEPALIVE_S
        while self._idle and self._idle[0][1] < expired_before_s:
            await self._close(self._idle.popleft()[0])

    async def _close(self, client: httpx.AsyncClient) -> None:
        self._open.discard(client)
        await client.aclose()
