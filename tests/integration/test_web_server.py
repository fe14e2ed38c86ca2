"""The limits of a server's connections, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from fsm_executor.gateway import IDLE_LIMIT_S
from fsm_runner.http_server import acceptor
from fsm_runner.http_server.acceptor import ACCEPTED_AT_ONCE, UNTIL_RESUMED, Acceptor
from fsm_runner.http_server.connection import Bounds, Connections
from fsm_runner.http_server.listener import listen
from fsm_runner.http_server.server import WebServer
from tests.support.children import open_descriptors
from tests.support.logs import log_lines
from tests.support.open_files import descriptors_left
from tests.support.watch import PATIENCE_S, Watch

SHORT_S = 0.3
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST_WITHOUT_ITS_BODY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
GET_HELD = GET.replace(b"/ ", b"/held ")
GET_LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LARGE = bytes(16 * 1024 * 1024)
"""Larger than the buffers of both sockets."""


class Application:
    """Responds at once; to /held when `released` is set."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.bodies: list[bytes] = []
        self.held = 0
        self.watch = Watch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/early":
            await self._answer(send, b"early")
            return
        if scope["path"] == "/large":
            await self._answer(send, LARGE)
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
        """Return the body of one response."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            return await self.reader.readexactly(5)

    async def get(self) -> bytes:
        self.send(GET)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Wait until the server has closed the connection without a response."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    def is_open(self) -> bool:
        return not self.reader.at_eof() and self.reader.exception() is None


class Bench:
    def __init__(self, app: Application, server: WebServer, stack: AsyncExitStack) -> None:
        self.app = app
        self.server = server
        self.url = server.url
        self._stack = stack

    async def watch_connections(self, condition: Callable[[Connections], bool]) -> None:
        """Poll: the server has no event for this."""
        await until(lambda: condition(self.server._connections))

    async def client(self) -> Client:
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        self._stack.callback(writer.close)
        return Client(reader, writer)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@asynccontextmanager
async def served(max_connections: int = 1_000, **bounds: Any) -> AsyncIterator[Bench]:
    app = Application()
    async with AsyncExitStack() as stack:
        server = WebServer(app, await listen("127.0.0.1", 0), Bounds(max_connections=max_connections, **bounds))
        await server.start()
        stack.push_async_callback(server.stop)
        yield Bench(app, server, stack)


async def test_a_new_connection_replaces_the_one_idle_for_longest() -> None:
    async with served(max_connections=5, replaceable_after_s=SHORT_S) as b:
        clients = [await b.client() for _ in range(5)]
        for client in (*clients[1:], clients[0]):
            assert await client.get() == b"whole"
        assert await (await b.client()).get() == b"whole"
        assert await clients[1].is_closed()
        assert [client.is_open() for client in clients] == [True, False, True, True, True]


async def test_a_connection_waits_while_all_others_are_in_use() -> None:
    with log_lines() as log:
        async with served(max_connections=5, replaceable_after_s=0) as b:
            held = [await b.client() for _ in range(5)]
            for client in held:
                client.send(GET_HELD)
            await b.app.watch.until(lambda: b.app.held == 5, "the requests to be held")
            waiting = [await b.client() for _ in range(40)]
            for client in waiting:
                client.send(GET)
            b.app.released.set()
            for client in (*held, *waiting):
                assert await client.answer() == b"whole"
    [line] = [line for line in log if "5 connections are open and in use, new ones wait" in line]
    assert b.url in line


async def test_a_client_that_does_not_read_its_last_response_is_replaced() -> None:
    async with served(max_connections=1, replaceable_after_s=SHORT_S) as b:
        reads_nothing = await b.client()
        reads_nothing.send(GET_LARGE)
        await reads_nothing.reader.readuntil(b"\r\n\r\n")
        assert await (await b.client()).get() == b"whole"


async def test_responses_announce_the_close_of_the_connection_while_others_wait() -> None:
    async with served(max_connections=1) as b:
        held = await b.client()
        held.send(GET_HELD)
        await b.app.watch.until(lambda: b.app.held == 1, "the request to be held")
        waiting = await b.client()
        waiting.send(GET)
        await b.watch_connections(lambda connections: connections.is_full)
        b.app.released.set()
        head = await held.reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" in head
        assert b"connection: close" not in await waiting.reader.readuntil(b"\r\n\r\n")


async def test_a_connection_with_an_unread_request_is_not_replaced() -> None:
    async with served(max_connections=1, replaceable_after_s=0) as b:
        client = await b.client()
        assert await client.get() == b"whole"
        client.send(GET)  # the server has not read it yet
        assert b.server._connections.make_room() == UNTIL_RESUMED
        assert await client.answer() == b"whole"


async def test_each_client_has_its_own_limit_of_requests() -> None:
    async with served(served_at_once=2, client_of=lambda scope: scope["query_string"]) as b:
        hog = [await b.client() for _ in range(5)]
        for client in hog:
            client.send(GET.replace(b"/ ", b"/held?hog "))
        await b.app.watch.until(lambda: b.app.held == 2, "the first two requests")
        other = await b.client()
        assert await other.get() == b"whole"
        assert b.app.held == 2
        hog[3].writer.close()
        b.app.released.set()
        for client in (hog[0], hog[1], hog[2], hog[4]):
            assert await client.answer() == b"whole"
        assert await (await b.client()).get() == b"whole"


async def test_a_request_that_waits_for_its_turn_is_replaced_with_a_503() -> None:
    async with served(
        max_connections=4, served_at_once=2, replaceable_after_s=SHORT_S, client_of=lambda scope: scope["query_string"]
    ) as b:
        hog = [await b.client() for _ in range(4)]
        for client in hog:
            client.send(GET.replace(b"/ ", b"/held?hog "))
        await b.app.watch.until(lambda: b.app.held == 2, "the first two requests")
        assert await (await b.client()).get() == b"whole"
        ends = {asyncio.create_task(client.reader.readline()) for client in hog}
        [ended], held = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert (await ended).startswith(b"HTTP/1.1 503 ")
        b.app.released.set()
        for end in held:
            assert (await end).startswith(b"HTTP/1.1 200 ")


async def test_connections_wait_while_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own servers log a failure for each connection and attempt."""
    attempts: list[float] = []
    pause = Acceptor._pause

    def counted(self: Acceptor, wait_s: float) -> None:
        attempts.append(wait_s)
        pause(self, wait_s)

    monkeypatch.setattr(acceptor, "RETRY_S", 0.01)
    monkeypatch.setattr(Acceptor, "_pause", counted)
    with log_lines() as log:
        async with served() as b:
            address = urlsplit(b.url)
            assert await (await b.client()).get() == b"whole"
            sockets = [socket.socket() for _ in range(40)]
            with descriptors_left(0):
                for each in sockets:
                    each.connect((address.hostname, address.port))
                    each.sendall(GET)
                await until(lambda: attempts.count(0.01) > 5)
            for each in sockets:
                reader, writer = await asyncio.open_connection(sock=each)
                assert await Client(reader, writer).answer() == b"whole"
                writer.close()
    [line] = [line for line in log if "Too many open files" in line]
    assert b.url in line


async def test_a_connection_without_a_request_is_closed() -> None:
    async with served(header_within_s=SHORT_S) as b:
        assert await (await b.client()).is_closed()


@pytest.mark.parametrize("request_sent", [GET, POST_WITHOUT_ITS_BODY])
async def test_a_connection_without_a_further_request_is_closed_within_the_same_time(request_sent: bytes) -> None:
    """uvicorn's keep-alive timer is longer."""
    async with served(header_within_s=SHORT_S) as b:
        client = await b.client()
        client.send(request_sent)
        await client.answer()
        assert await (await b.client()).is_closed()
        assert not client.is_open()


@pytest.mark.parametrize("sent_before", [0, 1])
async def test_a_slow_header_does_not_keep_its_connection_open(sent_before: int) -> None:
    """Each byte stops uvicorn's keep-alive timer."""
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


async def test_a_slow_body_after_the_response_does_not_keep_its_connection_open() -> None:
    async with served(header_within_s=SHORT_S) as b:
        client = await b.client()
        client.send(POST_WITHOUT_ITS_BODY)
        assert await client.answer() == b"early"
        dripping = asyncio.create_task(drip(client))
        assert await client.is_closed()
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_long_requests_are_not_interrupted() -> None:
    """A held response, a slow body and pipelined requests outlast an idle connection."""
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


async def test_a_connection_with_repeated_requests_stays_open() -> None:
    async with served(header_within_s=SHORT_S) as b:
        client, idle = await b.client(), await b.client()
        while idle.is_open():
            assert await client.get() == b"whole"
        assert await client.get() == b"whole"


async def test_many_clients_take_no_more_descriptors_than_the_limit() -> None:
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
    assert most == 5


async def test_a_burst_is_accepted_in_several_steps() -> None:
    async with served() as b:
        address = urlsplit(b.url)
        before = open_descriptors()
        burst = [socket.create_connection((address.hostname, address.port)) for _ in range(3 * ACCEPTED_AT_ONCE)]
        seen, steps = 0, []
        while seen < len(burst):
            await asyncio.sleep(0)
            seen, last = open_descriptors() - before - len(burst), seen
            steps.append(seen - last)
        for each in burst:
            each.close()
    assert max(steps) == ACCEPTED_AT_ONCE


def test_the_defaults() -> None:
    bounds = Bounds(max_connections=1)
    assert (bounds.header_within_s, bounds.replaceable_after_s) == (10.0, 2.0)
    assert bounds.replaceable_after_s > IDLE_LIMIT_S
