"""The bounds of a server's connections, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator.embedded.server import CoordinatorServer
from fsm_runner.web.listener import listen
from fsm_runner.web.server import ACCEPTED_AT_ONCE, HEADER_WITHIN_S, MAX_CONNECTIONS, WebServer
from tests.support.children import open_descriptors
from tests.support.logs import log_lines
from tests.support.watch import PATIENCE_S, Watch

SHORT_S = 0.3
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST_WITHOUT_ITS_BODY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
GET_HELD = GET.replace(b"/ ", b"/held ")


class Application:
    """Answers at once, or below /held with a stream that ends when it is told to."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.bodies: list[bytes] = []
        self.held = 0
        self.watch = Watch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/early":
            await self._answer(send, b"early")
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if scope["path"] == "/held":
            await self._hold(send)
        await self._answer(send, b"whole")

    async def _hold(self, send: Send) -> None:
        self.held += 1
        self.watch.changed()
        await self.released.wait()

    async def _answer(self, send: Send, body: bytes) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """The body of one answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            return await self.reader.readexactly(5)

    async def get(self) -> bytes:
        self.send(GET)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Wait until the server has closed it, without an answer."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    def is_open(self) -> bool:
        return not self.reader.at_eof() and self.reader.exception() is None


class Bench:
    def __init__(self, app: Application, url: str, stack: AsyncExitStack) -> None:
        self.app = app
        self.url = url
        self._stack = stack

    async def client(self) -> Client:
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        self._stack.callback(writer.close)
        return Client(reader, writer)


@asynccontextmanager
async def served(**bounds: Any) -> AsyncIterator[Bench]:
    app = Application()
    async with AsyncExitStack() as stack:
        server = WebServer(app, await listen("127.0.0.1", 0), **bounds)
        await server.start()
        stack.push_async_callback(server.stop)
        yield Bench(app, server.url, stack)


async def test_one_connection_too_many_is_closed_and_the_others_work() -> None:
    with log_lines() as log:
        async with served(max_connections=5) as b:
            clients = [await b.client() for _ in range(5)]
            for client in clients:
                assert await client.get() == b"whole"
            for _ in range(3):
                assert await (await b.client()).is_closed()
            for client in clients:
                assert await client.get() == b"whole"
    [line] = [line for line in log if "further ones are closed" in line]
    assert b.url in line
    assert "5 connections" in line


async def test_a_place_that_becomes_free_is_given_again() -> None:
    async with served(max_connections=1, header_within_s=SHORT_S) as b:
        idle = await b.client()
        assert await (await b.client()).is_closed()
        assert await idle.is_closed()
        assert await (await b.client()).get() == b"whole"


async def test_a_connection_that_asks_nothing_is_closed() -> None:
    async with served(header_within_s=SHORT_S) as b:
        assert await (await b.client()).is_closed()


@pytest.mark.parametrize("request_sent", [GET, POST_WITHOUT_ITS_BODY])
async def test_a_connection_that_asks_nothing_more_is_closed_as_soon(request_sent: bytes) -> None:
    """Before the server's keep-alive timer, which is longer here, would do it."""
    async with served(header_within_s=SHORT_S) as b:
        client = await b.client()
        client.send(request_sent)
        await client.answer()
        assert await (await b.client()).is_closed()
        assert not client.is_open()


@pytest.mark.parametrize("sent_before", [0, 1])
async def test_a_header_that_drips_in_does_not_keep_its_connection(sent_before: int) -> None:
    """Each byte stops the server's keep-alive timer."""
    async with served(header_within_s=SHORT_S) as b:
        client = await b.client()
        for _ in range(sent_before):
            assert await client.get() == b"whole"
        client.send(b"GET / HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip(client))
        assert await client.is_closed()
        dripping.cancel()
        await asyncio.wait([dripping])
        assert b.app.bodies == [b""] * sent_before


async def drip(client: Client) -> None:
    for number in range(10_000):
        client.send(b"x-%d: 1\r\n" % number)
        await asyncio.sleep(SHORT_S / 10)


async def test_a_body_that_drips_in_after_its_answer_does_not_keep_its_connection() -> None:
    async with served(header_within_s=SHORT_S) as b:
        client = await b.client()
        client.send(POST_WITHOUT_ITS_BODY)
        assert await client.answer() == b"early"
        dripping = asyncio.create_task(drip(client))
        assert await client.is_closed()
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_what_takes_long_is_left_alone() -> None:
    """A held answer, a body that comes slowly, requests in a pipeline: an idle connection is closed meanwhile."""
    async with served(header_within_s=SHORT_S) as b:
        held, slow, pipeline = [await b.client() for _ in range(3)]
        held.send(GET_HELD)
        slow.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        pipeline.send(GET + GET_HELD + GET)
        assert await pipeline.answer() == b"whole"
        await b.app.watch.until(lambda: b.app.held == 2, "the requests to be held")
        for _ in range(3):
            assert await (await b.client()).is_closed()
        b.app.released.set()
        slow.send(b"b")
        assert await held.answer() == b"whole"
        assert await slow.answer() == b"whole"
        assert b"ab" in b.app.bodies
        assert await pipeline.answer() == b"whole"
        assert await pipeline.answer() == b"whole"
        for client in (held, slow, pipeline):
            assert await client.is_closed()


async def test_a_connection_that_goes_on_asking_is_kept_beyond_the_limit() -> None:
    async with served(header_within_s=SHORT_S) as b:
        client, idle = await b.client(), await b.client()
        while idle.is_open():
            assert await client.get() == b"whole"
        assert await client.get() == b"whole"


async def test_a_crowd_at_the_door_does_not_take_the_descriptors() -> None:
    """All of it waits when the loop gets to it: no more than a few steps' worth is let in before it is turned away."""
    crowd = 400
    async with served(max_connections=5) as b:
        address = urlsplit(b.url)
        before = open_descriptors()
        with_crowd = [socket.create_connection((address.hostname, address.port), timeout=0.5) for _ in range(crowd)]
        most = 0
        for _ in range(crowd):
            await asyncio.sleep(0)
            most = max(most, open_descriptors() - before - crowd)
        for each in with_crowd:
            each.close()
    assert 5 <= most <= 5 + 5 * ACCEPTED_AT_ONCE


async def test_a_coordinator_has_as_many_connections_as_come() -> None:
    """Each runner holds a poll there."""
    async with CoordinatorServer(port=0) as server:
        address = urlsplit(server.url)
        connections = [
            await asyncio.open_connection(address.hostname, address.port) for _ in range(MAX_CONNECTIONS + 10)
        ]
        for reader, writer in connections:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in connections:
            writer.close()


def test_the_defaults_leave_room_in_a_usual_limit_of_open_files() -> None:
    assert (MAX_CONNECTIONS, HEADER_WITHIN_S) == (200, 10.0)
