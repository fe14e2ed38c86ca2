"""The connection pool against a real server that counts connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from fsm_runner.coordinator_client import pool as connections_module
from fsm_runner.coordinator_client.pool import ONE_CONNECTION, ConnectionPool
from tests.support.watch import PATIENCE_S


class Counter:
    """A server that counts connections, and answers each request once it is allowed to."""

    def __init__(self) -> None:
        self.accepted = 0
        self.requests = asyncio.Semaphore(0)
        self.ended = asyncio.Semaphore(0)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests.release()
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        self.ended.release()


@asynccontextmanager
async def kept(limit: int) -> AsyncIterator[tuple[ConnectionPool, Counter]]:
    counter = Counter()
    server = await asyncio.start_server(counter.serve, "127.0.0.1", 0)
    counter.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    connections = ConnectionPool(lambda: httpx.AsyncClient(limits=ONE_CONNECTION, trust_env=False), limit)
    try:
        yield connections, counter
    finally:
        await connections.aclose()
        server.close()
        for _ in range(counter.accepted):
            await counter.ended.acquire()


async def ask(connections: ConnectionPool, counter: Counter) -> int:
    async with connections.acquire() as client:
        return (await client.get(counter.url)).status_code


async def ask_at_once(connections: ConnectionPool, counter: Counter, count: int) -> None:
    counter.may_answer.clear()
    asked = [asyncio.create_task(ask(connections, counter)) for _ in range(count)]
    for _ in asked:
        await counter.requests.acquire()
    counter.may_answer.set()
    assert await asyncio.gather(*asked) == [204] * count


async def test_consecutive_requests_share_a_connection() -> None:
    async with kept(5) as (connections, counter):
        for _ in range(4):
            assert await ask(connections, counter) == 204
        assert counter.accepted == 1


async def test_parallel_connections_are_reused() -> None:
    async with kept(3) as (connections, counter):
        await ask_at_once(connections, counter, 3)
        await ask_at_once(connections, counter, 3)
        assert counter.accepted == 3


async def test_a_request_above_the_limit_waits() -> None:
    async with kept(2) as (connections, counter):
        counter.may_answer.clear()
        asked = [asyncio.create_task(ask(connections, counter)) for _ in range(3)]
        await counter.requests.acquire()
        await counter.requests.acquire()
        counter.may_answer.set()
        assert await asyncio.gather(*asked) == [204] * 3
        assert counter.accepted == 2


async def test_a_cancelled_request_frees_its_connection() -> None:
    async with kept(1) as (connections, counter):
        counter.may_answer.clear()
        given_up = asyncio.create_task(ask(connections, counter))
        await counter.requests.acquire()
        given_up.cancel()
        await asyncio.wait({given_up})
        counter.may_answer.set()
        assert await ask(connections, counter) == 204


@pytest.mark.parametrize("warm", [False, True], ids=["a first request", "a request of a kept connection"])
async def test_a_request_can_be_cancelled_at_any_moment(warm: bool) -> None:
    turns = 0
    has_ended = False
    while not has_ended:
        async with kept(1) as (connections, counter):
            if warm:
                await ask(connections, counter)
            given_up = asyncio.create_task(ask(connections, counter))
            for _ in range(turns):
                await asyncio.sleep(0)
            has_ended = given_up.done()
            given_up.cancel()
            await asyncio.wait({given_up})
            async with asyncio.timeout(PATIENCE_S):
                assert await ask(connections, counter) == 204, f"given up in turn {turns} of the loop"
        turns += 1
    assert turns > 3


async def test_unused_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with kept(3) as (connections, counter):
        await ask_at_once(connections, counter, 3)
        monkeypatch.setattr(connections_module, "KEEPALIVE_S", -1.0)
        async with connections.acquire():
            await counter.ended.acquire()
            await counter.ended.acquire()
            counter.ended.release()
            counter.ended.release()
        assert counter.accepted == 3


async def test_a_connection_in_use_is_closed_too() -> None:
    async with kept(2) as (connections, counter):
        counter.may_answer.clear()
        asked = asyncio.create_task(ask(connections, counter))
        await counter.requests.acquire()
        await connections.aclose()
        with pytest.raises(httpx.HTTPError):
            await asked
        counter.may_answer.set()
