"""Kept connections to one coordinator, each with a client of its own.

A pool of httpx looks at each of its connections when a request begins and again when it ends. With twenty of them that
was two fifths of what a run cost the loop, so each pool here holds a single one, and a stack says which is used.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec

from fsm_runner.coordinator_client.policy import KEEPALIVE_S

ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_S)
"""The limits of each client that `Connections` is given."""


class _Idle(msgspec.Struct, frozen=True):
    client: httpx.AsyncClient
    since_s: float


class Connections:
    """At most `limit` of them; who wants one more waits."""

    def __init__(self, new_client: Callable[[], httpx.AsyncClient], limit: int) -> None:
        self._new_client = new_client
        self._room = asyncio.Semaphore(limit)
        self._open: set[httpx.AsyncClient] = set()
        self._idle: deque[_Idle] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client with nothing else under way: the one that was used last, so that the others can be let go.

        It is kept only where all went well: a request that is given up at a bad moment leaves its connection in use
        for ever, and the next one would wait for it.
        """
        async with self._room:
            client = self._idle.pop().client if self._idle else self._made()
            try:
                await self._let_go_of_unused()
                yield client
            except BaseException:
                await self._close(client)
                raise
            self._idle.append(_Idle(client, time.monotonic()))

    async def aclose(self) -> None:
        """Close them all, those in use too."""
        while self._open:
            await self._open.pop().aclose()

    def _made(self) -> httpx.AsyncClient:
        client = self._new_client()
        self._open.add(client)
        return client

    async def _let_go_of_unused(self) -> None:
        unused_before_s = time.monotonic() - KEEPALIVE_S
        while self._idle and self._idle[0].since_s < unused_before_s:
            await self._close(self._idle.popleft().client)

    async def _close(self, client: httpx.AsyncClient) -> None:
        self._open.discard(client)
        await client.aclose()
